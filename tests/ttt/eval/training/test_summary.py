"""A training as a summary: held against numbers that are made without it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from tests.ttt.eval.training_runs import (
    BINS,
    FRAMES,
    GAINS,
    LORA,
    STAGES,
    WINDOW,
    heard,
    spans,
    write_training,
)
from ttt import checkpoint
from ttt.errors import UserError
from ttt.eval.training.spans import MEASURES, paired_differences
from ttt.eval.training.summary import summarize_training
from ttt.records import append_jsonl
from ttt.statistics.intervals import clustered_interval


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training(tmp_path_factory.mktemp("trainings") / "run")


def test_every_validation_is_paired_with_the_base_by_speaker(run: Path):
    found = summarize_training(str(run))
    assert [each["step"] for each in found["validations"]] == list(GAINS)
    assert (found["best_step"], found["last_step"], found["finished"]) == (30, 40, True)
    rows = spans(6)
    for each in found["validations"]:
        assert set(each["against_base"]) == set(MEASURES)
        for name, told in each["against_base"].items():
            changed = [
                (ours[name] - theirs[name], span["speaker"])
                for n, span in enumerate(rows)
                for ours, theirs in [(heard(span, GAINS[each["step"]], n)[0], heard(span, 0, n)[0])]
                if name in ours
            ]
            values, speakers = zip(*changed, strict=True)
            assert told["n"] == len(values) == (12 if name in ("mean", "in_window") else 11)
            assert told["speakers"] == 6
            assert told["mean"] == pytest.approx(np.mean(values), abs=1e-12)
            wanted = clustered_interval(values, speakers, 0, 2000, "speaker")
            assert (told["low"], told["high"]) == pytest.approx((wanted.low, wanted.high))


def test_curves_are_of_the_longer_half_of_the_spans(run: Path):
    found = summarize_training(str(run))
    assert list(found["curves"]) == ["base", "0", "10", "20", "30", "40"]
    long = [(n, span) for n, span in enumerate(spans(6)) if span["frames"] == FRAMES]
    bins = len([low for low in BINS if 2 * max(low, 8) <= FRAMES])
    for step, line in found["curves"].items():
        gain = 0.0 if step == "base" else GAINS[int(step)]
        wanted = np.mean([list(heard(span, gain, n)[1].values()) for n, span in long], axis=0)
        assert line["mean"] == pytest.approx(wanted.tolist())
        assert line["n"] == [11] * bins
    changed = np.subtract(found["curves"]["30"]["mean"], found["curves"]["base"]["mean"])
    assert found["difference_curve"]["mean"] == pytest.approx(changed.tolist())
    lows, highs = (found["difference_curve"][edge] for edge in ("low", "high"))
    assert all(low <= mean <= high for low, mean, high in zip(lows, changed, highs, strict=True))


def test_of_many_validations_four_or_five_curves_are_kept(tmp_path: Path):
    gains = {step: -0.001 * min(step, 34) - 1e-9 * (step == 34) for step in range(0, 41, 2)}
    found = summarize_training(str(write_training(tmp_path / "run", gains=gains)))
    assert list(found["curves"]) == ["base", "0", "12", "26", "34", "40"]
    assert len(found["validations"]) == 21


def test_stages_and_steps_are_told(run: Path):
    found = summarize_training(str(run))
    assert found["total_steps"] == 40
    assert [each["first_step"] for each in found["stages"]] == [1, 21]
    assert [each["step_seconds"] for each in found["stages"]] == [0.25, 0.25]
    assert [each["frames"] for each in found["stages"]] == [each["frames"] for each in STAGES]
    losses = {each["step"]: each["loss"] for each in found["steps"]}
    assert losses[6] is None
    assert losses[40] == 1.6
    assert found["window"] == WINDOW
    assert json.loads(json.dumps(found)) == found


def test_a_run_that_goes_on_is_read_as_it_stands(tmp_path: Path):
    run = write_training(tmp_path / "run", gains={0: 0.0, 10: -0.02}, step=12)
    # Killed while the next validation was written, before metrics.jsonl tells of it.
    append_jsonl(run / "spans.jsonl", {"step": 20, **spans(6)[0]})
    for name in ("spans.jsonl", "metrics.jsonl"):
        with open(run / name, "a") as file:
            file.write('{"kind": "step", "st')
    found = summarize_training(str(run))
    assert (found["finished"], found["step"], found["best_step"]) == (False, 12, 10)
    assert [each["step"] for each in found["validations"]] == [0, 10]
    assert found["stages"][1]["step_seconds"] is None


def test_a_run_without_validation_has_its_training_alone(tmp_path: Path):
    found = summarize_training(str(write_training(tmp_path / "run", gains={})))
    assert found["validations"] == []
    assert found["base"] is found["best_step"] is found["difference_curve"] is None
    assert len(found["steps"]) == 20


def test_few_speakers_have_no_interval_and_lora_no_layers(tmp_path: Path):
    lora = {"ttt": None, "lora": LORA, "trained": {"lora": 1030}}
    found = summarize_training(str(write_training(tmp_path / "run", speakers=4, **lora)))
    told = found["validations"][-1]["against_base"]["beyond_window"]
    assert told["low"] is None
    assert told["reason"] == "4 speakers; an interval needs 5"
    assert not math.isnan(told["mean"])
    assert found["validations"][-1]["gate"] == {}


def test_what_is_no_training_in_moshi_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"no training has saved a checkpoint here; name the run"):
        summarize_training(str(tmp_path))
    state = {"train": {}, "plan": {"curriculum": {}}}
    checkpoint.save(str(tmp_path), checkpoint.Snapshot(1, {}, {}, state))
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}: this is not a training in Moshi")):
        summarize_training(str(tmp_path))


def test_only_the_same_spans_are_paired():
    rows = [{**span, "losses": heard(span, 0, n)[0]} for n, span in enumerate(spans(5))]
    with pytest.raises(ValueError, match="speaker_0/a_long_name_of_a_chapter_0 is paired with"):
        paired_differences(rows, rows[::-1])
    assert paired_differences([], [])["mean"]["mean"] is None
