"""A training beside its control: what is paired, and what is no control."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ttt.eval.training_runs import GAINS, LORA, STAGES, heard, spans, write_training
from ttt.errors import UserError
from ttt.eval.training.compare import compare_trainings, read_training
from ttt.eval.training.summary import summarize_training
from ttt.records import write_json

OF_LORA: dict[str, Any] = {"ttt": None, "lora": LORA, "trained": {"lora": 1030}}
CONTROL_GAINS = {0: 0.0, 10: -0.01, 20: -0.03, 30: -0.02, 40: -0.05}


def summarized(run: Path, **changed: Any) -> Any:
    summary = summarize_training(str(write_training(run, **changed)))
    write_json(run / "summary.json", summary)
    return read_training(str(run))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("pair")
    control = summarized(folder / "lora", gains=CONTROL_GAINS, **OF_LORA)
    return summarized(folder / "ttt"), control


def test_differences_are_paired_at_the_best_and_at_the_last_step(pair: tuple[Any, Any]):
    found = compare_trainings(*pair)
    assert found["names"] == ["TTT", "LoRA"]
    assert [side["best_step"] for side in found["sides"]] == [30, 40]
    for at, ours, theirs in (("best", 30, 40), ("last", 40, 40)):
        changed = [
            heard(span, GAINS[ours], n)[0][name] - heard(span, CONTROL_GAINS[theirs], n)[0][name]
            for n, span in enumerate(spans(6))
            for name in ["beyond_window"]
            if span["frames"] > 64
        ]
        told = found["differences"][at]["beyond_window"]
        assert told["mean"] == pytest.approx(np.mean(changed))
        assert told["high"] < 0
        assert (told["n"], told["speakers"]) == (11, 6)
    curves = found["curves"]
    assert list(curves) == ["base", "TTT", "LoRA"]
    between = np.subtract(curves["TTT"]["mean"], curves["LoRA"]["mean"])
    assert found["difference_curve"]["mean"] == pytest.approx(between.tolist())
    for name, side in zip(found["names"], pair, strict=True):
        best = side["validations"][3 if name == "TTT" else 4]
        assert found["against_base"][name] == best["against_base"]
        assert found["losses"][name] == best["losses"]
    assert json.loads(json.dumps(found)) == found


def test_what_may_differ_is_shown(pair: tuple[Any, Any]):
    found = compare_trainings(*pair)
    told = {each["setting"]: (each["first"], each["second"]) for each in found["differs"]}
    assert told == {
        "ttt.layers": ([1, 3], None),
        "ttt.kind": ("mlp", None),
        "lora.rank": (None, 8),
        "lora.targets": (None, ["in_projs"]),
    }
    assert found["more_parameters_percent"] == pytest.approx(100 * (1024 / 1030 - 1))
    assert found["bases_apart"] == 0
    assert [each["chapter_id"] for each in found["spans"]] == [s["chapter_id"] for s in spans(6)]


def test_two_of_a_kind_are_named_by_their_folders(tmp_path: Path):
    rates = {"peak_rates": {"ttt": 2e-3, "gate": 1e-3, "lora": 1e-3}, "clip_norm": 1.0}
    sides = summarized(tmp_path / "one"), summarized(tmp_path / "two", optim=rates)
    found = compare_trainings(*sides)
    assert found["names"] == ["TTT (one)", "TTT (two)"]
    assert found["differs"] == [{"setting": "optim.peak_rates.ttt", "first": 1e-3, "second": 2e-3}]
    assert found["differences"]["best"]["beyond_window"]["mean"] == 0


LONGER = [STAGES[0], {**STAGES[1], "steps": 30}]
NO_CONTROL: dict[str, tuple[dict[str, Any], str]] = {
    "another base": ({"base_fingerprint": "cd" * 8}, "base_fingerprint is abab"),
    "other chapters": (
        {"chapters_sha256": {"training": "56" * 32, "validation": "34" * 32}},
        "chapters_sha256.training is 1212",
    ),
    "other stages": (
        {"stages": LONGER, "steps": {"epoch 1": 20, "epoch 2": 30}, "step": 50},
        "steps.epoch 2 is 20 and 30",
    ),
    "another schedule": (
        {"optim": {"peak_rates": {"ttt": 1e-3}, "clip_norm": None}},
        "optim.clip_norm is 1.0 and null",
    ),
    "other windows": ({"seed": 1}, "seed is 0 and 1"),
    "another weighting": ({"weights": "uniform"}, "weights is moshi and uniform"),
    "another reach": ({"attention_window": 32}, "attention_window is 64 and 32"),
    "a warm start": (
        {"start_sha256": {"lora.safetensors": "ef" * 32}},
        "start_from is none and an export",
    ),
    "other spans": ({"speakers": 5}, "spans is [["),
}


@pytest.mark.parametrize("case", NO_CONTROL)
def test_what_else_differs_is_refused_by_name(case: str, pair: tuple[Any, Any], tmp_path: Path):
    changed, said = NO_CONTROL[case]
    control = summarized(tmp_path / "control", **OF_LORA, **changed)
    with pytest.raises(UserError) as refused:
        compare_trainings(pair[0], control)
    assert said in str(refused.value)
    assert "are no run and its control: " in str(refused.value)
    assert "\n" not in str(refused.value)


def test_many_differences_are_counted(pair: tuple[Any, Any], tmp_path: Path):
    more = {"seed": 1, "weights": "uniform", "base_fingerprint": "x", "attention_window": 1}
    control = summarized(tmp_path / "control", speakers=5, **more)
    said = r"weights is .*, seed is .*, base_fingerprint is .*, and 2 more; the same base"
    with pytest.raises(UserError, match=said):
        compare_trainings(pair[0], control)


def test_unfinished_and_unvalidated_runs_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"has no summary.json of a training in Moshi; name the"):
        read_training(str(tmp_path))
    with pytest.raises(UserError, match="stood at step 12 of 40 when its summary was written"):
        summarized(tmp_path / "begun", gains={0: 0.0, 10: -0.02}, step=12)
    with pytest.raises(UserError, match="has no validation, so there is nothing to compare"):
        summarized(tmp_path / "blind", gains={})
