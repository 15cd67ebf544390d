"""What a training in Moshi leaves to be read: every span's losses, a page, a control beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_jobs import train_ttt
from ray_jobs.moshi.train.report import write_comparison, write_report
from ray_jobs.moshi.train.spans_file import SpansFile
from tests.ray_jobs.nano_training import World, metrics
from tests.ttt.eval.training_runs import LORA, write_training
from ttt import storage
from ttt.moshi.training import Span
from ttt.records import read_json
from ttt.training.state import TrainState
from ttt.training.trainee import ValidationResult

SPANS = (Span(3, "a/1", 30, "a"), Span(1, "b/1", 20, "b"))


def result(step: int) -> ValidationResult:
    by_item: dict[str, list[dict[str, float]]] = {"trained": [{"mean": step}, {"mean": step + 0.5}]}
    if step == 0:
        by_item["base"] = [{"mean": 7.0}, {"mean": float("nan")}]
    return ValidationResult(float(step), {}, {}, by_item=by_item)


def lines(uri: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in storage.read_bytes(uri).decode().splitlines()]


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_no_span_is_there_twice_after_a_restart(tmp_path: Path, scheme: str) -> None:
    run = f"{scheme}{tmp_path}"
    first = SpansFile(run, SPANS)
    first.on_start(TrainState())
    for step in (0, 2, 4):
        first.on_validation(TrainState(step=step), result(step))
    uri = storage.join(run, "spans.jsonl")
    whole = storage.read_bytes(uri)
    if not scheme:  # the last line was cut short by the kill
        with open(uri, "a") as file:
            file.write('{"step": 6, "chap')
    again = SpansFile(run, SPANS)
    again.on_start(TrainState(step=3))
    again.on_validation(TrainState(step=4), result(4))
    assert storage.read_bytes(uri) == whole
    told = lines(uri)
    assert [(line["step"], line["chapter_id"]) for line in told] == [
        (step, name) for step in (0, 2, 4) for name in ("a/1", "b/1")
    ]
    assert told[1] == {
        "step": 0,
        "chapter_id": "b/1",
        "speaker": "b",
        "frames": 20,
        "trained": {"mean": 0.5},
        "base": {"mean": None},
    }
    assert "base" not in told[2]
    fresh = SpansFile(run, SPANS)
    fresh.on_start(TrainState())
    assert lines(uri) == []


def test_a_run_leaves_what_every_span_gave(ttt_finished: Path) -> None:
    validations = [line for line in metrics(ttt_finished) if line["kind"] == "validation"]
    told = lines(ttt_finished / "spans.jsonl")
    assert len(told) == 2 * len(validations)
    for line in validations:
        spans = [each for each in told if each["step"] == line["step"]]
        assert [each["speaker"] for each in spans] == [spans[0]["speaker"]] * 2
        assert ("base" in spans[0]) == (line["step"] == 0)
        for row in ("trained", "curve", "fast_weight_change"):
            for name, mean in line["rows"][row].items():
                values = [each[row][name] for each in spans if name in each[row]]
                assert mean == pytest.approx(np.mean(values), rel=1e-12)


def test_a_run_ends_with_a_page_and_report_writes_it_again(
    ttt_finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary, page = ttt_finished / "summary.json", ttt_finished / "report.html"
    before = summary.read_bytes(), page.read_bytes()
    found = read_json(summary)
    assert found["finished"]
    heading = found["verdict"]["heading"]
    assert heading.startswith("Not shown: beyond the attention window the loss cannot be told from")
    assert "no interval: 1 speaker; an interval needs 5" in heading
    assert heading in page.read_text()
    assert train_ttt.main(["--report", str(ttt_finished)]) == 0
    assert heading in capsys.readouterr().out
    assert (summary.read_bytes(), page.read_bytes()) == before
    assert train_ttt.main(["--report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}: no training has saved a checkpoint here")


def test_a_resumed_run_leaves_the_same_spans_and_numbers(
    ttt_world: World, ttt_finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(ttt_finished, run)
    for step in (6, 7, 8):  # as if it had been killed after the validation of step 6
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    assert ttt_world.main(run, "--resume") == 0
    for name in ("spans.jsonl", "summary.json"):
        ours, theirs = (folder / name for folder in (run, ttt_finished))
        if name == "spans.jsonl":
            assert ours.read_bytes() == theirs.read_bytes()
            continue
        of_run, of_whole = read_json(ours), read_json(theirs)
        for key in ("validations", "curves", "difference_curve", "spans", "verdict", "plan"):
            assert of_run[key] == of_whole[key], key


def test_a_control_is_compared_span_by_span(
    ttt_world: World, ttt_finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    control, output = tmp_path / "control", tmp_path / "both"
    layers = "lora.match={layers: [0, 2], kind: linear, num_heads: 2}"
    overrides = ["ttt=null", "lora.rank=match", layers, "lora.targets=[in_projs,gating]"]
    assert ttt_world.main(control, *overrides) == 0
    words = ["--compare", str(ttt_finished), str(control)]
    assert train_ttt.main([*words, f"output={output}"]) == 0
    said = capsys.readouterr().out
    assert f"report: {output}/report.html" in said
    found, page = read_json(output / "summary.json"), (output / "report.html").read_text()
    assert found["verdict"]["heading"] in said
    assert found["verdict"]["heading"] in page
    assert "<script" not in page
    assert found["names"] == ["TTT and LoRA", "LoRA"]
    assert found["bases_apart"] == 0
    best = [read_json(run / "summary.json")["spans"]["best"] for run in (ttt_finished, control)]
    changed = [
        ours["losses"]["beyond_window"] - theirs["losses"]["beyond_window"]
        for ours, theirs in zip(*best, strict=True)
    ]
    told = found["differences"]["best"]["beyond_window"]
    assert told["mean"] == pytest.approx(np.mean(changed), rel=1e-9)
    assert told["reason"] == "1 speaker; an interval needs 5"
    other = tmp_path / "other"
    assert ttt_world.main(other, *overrides, "seed=1", "text=masked") == 0
    capsys.readouterr()
    assert train_ttt.main(["--compare", str(ttt_finished), str(other)]) == 2
    refused = capsys.readouterr().err
    assert refused.startswith("error: ")
    assert "no run and its control: text is pad and masked, seed is 0 and 1; the same" in refused
    assert refused.count("\n") == 1


@pytest.mark.parametrize(
    "gain, speakers, kind, said",
    [
        (-0.05, 6, "good", "Shown: beyond the attention window the loss is lower than the base"),
        (0.05, 6, "bad", "Shown: beyond the attention window the loss is higher than the base"),
        (-0.05, 4, "mixed", "cannot be told from the base model's with so few speakers; paired"),
        (0.0, 6, "mixed", "Not shown: beyond the attention window the loss cannot be told from"),
    ],
)
def test_the_first_sentence_says_only_what_the_interval_shows(
    gain: float, speakers: int, kind: str, said: str, tmp_path: Path
) -> None:
    run = write_training(tmp_path / "run", gains={0: 0.0, 40: gain}, speakers=speakers)
    write_report(str(run))
    verdict = read_json(run / "summary.json")["verdict"]
    assert verdict["kind"] == kind
    assert said in verdict["heading"]


def test_a_voice_that_trains_is_named_as_such(tmp_path: Path) -> None:
    held_out = {"validation_share": None, "validation_chapters": ["a/1"]}
    said = "data.validation_chapters), and their speakers may be among those that train: this says"
    for name, data, named in (("old", {"validation_share": 0.5}, False), ("new", held_out, True)):
        run = write_training(tmp_path / name, data=data)
        write_report(str(run))
        sentences = read_json(run / "summary.json")["verdict"]["sentences"]
        assert any(said in sentence for sentence in sentences) == named
        page = (run / "report.html").read_text()
        assert (said in page) == ("of held-out chapters by" in page) == named
    both = tmp_path / "both"
    write_comparison(str(tmp_path / "new"), str(tmp_path / "new"), str(both))
    page = (both / "report.html").read_text()
    assert said in page
    assert "of held-out chapters by" in page


def test_more_parameters_are_no_merit(tmp_path: Path) -> None:
    run = write_training(tmp_path / "ttt")
    for count, kind in ((1030, "good"), (1000, "mixed")):
        changed = {"ttt": None, "lora": LORA, "trained": {"lora": count}}
        control = write_training(tmp_path / f"lora-{count}", gains={0: 0.0, 40: -0.01}, **changed)
        for each in (run, control):
            write_report(str(each))
        write_comparison(str(run), str(control), None)
        found = read_json(run / f"comparisons/against-lora-{count}/summary.json")["verdict"]
        assert found["heading"].startswith("Shown: beyond the attention window the loss of TTT is")
        assert found["kind"] == kind
        assert ("no matched control" in found["sentences"][0]) == (kind == "mixed")
