"""Everything is recomputed from the records alone, and says what was left out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.ttt.eval.finished_run import CONTEXT, SUMMARY, write_run
from ttt.errors import UserError
from ttt.eval.chapters.compare import compare
from ttt.eval.chapters.long_context import summarize
from ttt.eval.chapters.measures import measure_chapter
from ttt.eval.chapters.records import read_records
from ttt.eval.chapters.run import ChapterRun
from ttt.eval.chapters.summary import CHAPTERS
from ttt.eval.config import LongContextConfig
from ttt.eval.paired import compare_runs
from ttt.eval.rescore import rescore, summarize_run
from ttt.records import append_jsonl, finite


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def summary(run: Path) -> dict:
    return rescore(CHAPTERS, run)


def test_the_summary_is_that_of_the_records(run: Path, summary: dict) -> None:
    live = {
        model: [measure_chapter(r, CONTEXT, SUMMARY) for r in read_records(run / "records" / model)]
        for model in ("baseline", "ttt")
    }
    for model, chapters in live.items():
        written = summary["models"][model]
        expected = summarize(chapters, CONTEXT, SUMMARY)
        assert {key: written[key] for key in expected} == expected
    (compared,) = summary["comparisons"]
    expected = compare(live["baseline"], live["ttt"], SUMMARY)
    assert {key: compared[key] for key in expected} == expected
    on_disk = json.loads((run / "summary.json").read_text())
    assert on_disk == json.loads(json.dumps(finite(summary)))
    assert summarize_run(CHAPTERS, run) == summary


def test_the_planted_effect_is_there(summary: dict) -> None:
    slopes = {
        name: model["losses"]["moshi"]["measures"]["slope_per_doubling"]
        for name, model in summary["models"].items()
    }
    assert slopes["ttt"]["high"] < 0
    assert slopes["baseline"]["mean"] - slopes["ttt"]["mean"] == pytest.approx(0.1, abs=0.01)
    difference = summary["comparisons"][0]["losses"]["moshi"]["measures"]
    assert difference["at_1000"]["mean"] == pytest.approx(-0.2, abs=0.01)
    assert difference["beyond_window"]["high"] < 0


def test_effort_joins_and_activity_are_gathered(summary: dict) -> None:
    ttt = summary["models"]["ttt"]
    assert ttt["frames_per_second"] == pytest.approx(50)
    assert ttt["chunks_lowered"] == ["3/book/chapter_3"]
    assert summary["models"]["baseline"]["chunks_lowered"] == []
    assert ttt["acceptance"] == pytest.approx(0.75)
    assert ttt["peak_bytes"] == 111 << 20
    assert (ttt["near_ties"], ttt["joins"], ttt["coverage"]) == (12, 12, 1.0)
    assert list(ttt["activity"]) == ["1", "2"]
    assert ttt["activity"]["1"]["frame"][:2] == [100, 200]
    # Of the same chapters at every point: the longer six, of 1,800 frames and more.
    assert ttt["activity"]["1"]["n"] == [6] * 17
    assert ttt["activity"]["1"]["frame"][-1] == 1700
    assert summary["models"]["baseline"]["activity"] == {}


def test_plots_and_legacy_keys_are_written(run: Path, summary: dict) -> None:
    names = sorted(path.stem for path in (run / "plots").glob("*.png"))
    assert names == sorted(path.stem for path in (run / "plots").glob("*.svg"))
    assert names == [
        "activity_ttt", "difference_ttt_acoustic", "difference_ttt_moshi",
        "difference_ttt_semantic", "loss_acoustic", "loss_moshi", "loss_semantic",
    ]  # fmt: skip
    legacy = json.loads((run / "legacy.json").read_text())
    assert legacy["librilight_samples"] == 12
    assert legacy["librilight_loss_8k"] is None
    ours = summary["models"]["ttt"]["losses"]["moshi"]["measures"]["slope_per_frame"]["mean"]
    assert legacy["librilight_slope"] == ours == legacy["models"]["ttt"]["librilight_slope"]


def test_other_settings_need_no_new_run(tmp_path: Path) -> None:
    run = write_run(tmp_path, chapters=2, speakers=2)
    other = LongContextConfig(positions=(300,), window_frames=100, weights="uniform")
    summary = summarize_run(CHAPTERS, run, other)
    assert summary["run"]["summary"]["weights"] == "uniform"
    assert list(summary["models"]["ttt"]["losses"]["uniform"]["positions"]) == ["300"]
    assert ChapterRun.read(run).summary == SUMMARY


def test_failed_and_missing_chapters_are_listed_with_their_reason(tmp_path: Path) -> None:
    run = write_run(tmp_path, chapters=4, speakers=2)
    for name in ("0/book/chapter_0", "1/book/chapter_1"):
        (run / f"records/ttt/{name}.parquet").unlink()
    for reason in ("killed", "loss is nan"):
        append_jsonl(
            run / "failures.jsonl",
            {"model": "ttt", "chapter_id": "0/book/chapter_0", "reason": reason},
        )
    append_jsonl(
        run / "failures.jsonl",
        {"model": "ttt", "chapter_id": "0/book/chapter_2", "reason": "done later"},
    )
    summary = summarize_run(CHAPTERS, run)
    ttt = summary["models"]["ttt"]
    assert ttt["coverage"] == 0.5
    assert ttt["left_out"] == [
        {"chapter_id": "0/book/chapter_0", "reason": "loss is nan"},
        {"chapter_id": "1/book/chapter_1", "reason": "not evaluated yet"},
    ]
    assert summary["comparisons"][0]["chapters"] == 2
    (compared,) = summary["comparisons"]
    assert compared["left_out"] == 2
    far = compared["losses"]["moshi"]["measures"]["at_2000"]
    assert (far["mean"], far["reason"]) == (None, "no chapter is long enough")


def test_what_was_held_to_stepping_is_summed_by_model(tmp_path: Path) -> None:
    run = write_run(tmp_path, chapters=2, speakers=2)
    assert summarize_run(CHAPTERS, run)["models"]["ttt"]["verification"] is None

    def hold(chapter: int, largest: float, text: int) -> None:
        line = {"model": "ttt", "chapters": [f"{chapter}/book/chapter_{chapter}"], "frames": 16}
        line |= {"largest_nll_difference": largest, "text_differences": text}
        append_jsonl(
            run / "verification.jsonl", {**line, "unexplained_text_differences": text // 2}
        )

    hold(0, 0.5, 8)
    hold(0, 2e-6, 2)  # The same group, held again later: only this counts.
    hold(1, 1e-6, 4)
    models = summarize_run(CHAPTERS, run)["models"]
    assert models["baseline"]["verification"] is None
    assert models["ttt"]["verification"] == {
        "groups": 2,
        "frames": 32,
        "text_differences": 6,
        "unexplained_text_differences": 3,
        "largest_nll_difference": 2e-6,
        "unverified": [],
    }
    line = {"model": "ttt", "chapters": ["1/book/chapter_1"], "frames": 16}
    line |= {"largest_nll_difference": 1e-6, "text_differences": 4}
    line |= {"unexplained_text_differences": 2, "beginning_frames": 400}
    append_jsonl(run / "verification.jsonl", line)  # A later version steps the beginning, too.
    assert summarize_run(CHAPTERS, run)["models"]["ttt"]["verification"]["beginning_frames"] == 400
    hold(1, float("nan"), 0)
    told = summarize_run(CHAPTERS, run)["models"]["ttt"]["verification"]
    assert told["largest_nll_difference"] is None
    for chapter in (0, 1):
        group = {"model": "ttt", "chapters": [f"{chapter}/book/chapter_{chapter}"]}
        append_jsonl(run / "verification.jsonl", {**group, "error": "out of memory"})
    told = summarize_run(CHAPTERS, run)["models"]["ttt"]["verification"]
    assert (told["groups"], told["largest_nll_difference"]) == (0, None)
    assert told["unverified"][0] == {
        "chapters": ["0/book/chapter_0"], "reason": "out of memory",
    }  # fmt: skip


def test_a_control_is_held_against_the_model_that_it_controls(run: Path) -> None:
    described = ChapterRun.read(run)
    baseline, ttt = described.models
    shuffled = {"shuffle_frames": 9}
    models = [
        replace(baseline, controls=shuffled),
        replace(baseline, model="baseline-prefix", controls={**shuffled, "prefix": 3}),
        replace(ttt, controls=shuffled),
        replace(ttt, model="ttt-off", controls={**shuffled, "updates": "off"}),
    ]
    described = replace(described, models=tuple(models))
    assert {model.model: described.reference(model.model) for model in models} == {
        "baseline": None,
        "baseline-prefix": "baseline",
        "ttt": "baseline",
        "ttt-off": "ttt",
    }
    alone = replace(described, models=tuple(models[2:]))
    assert [alone.reference(model.model) for model in alone.models] == [None, "ttt"]


def test_a_run_without_results_says_so_and_warnings_reach_every_output(tmp_path: Path) -> None:
    run = write_run(tmp_path, chapters=1, speakers=1, warnings=("reproduces faults",))
    (run / "records/ttt/0/book/chapter_0.parquet").unlink()
    (run / "records/baseline/0/book/chapter_0.parquet").unlink()
    summary = rescore(CHAPTERS, run)
    assert summary["models"]["ttt"]["coverage"] == 0
    assert summary["models"]["ttt"]["losses"]["moshi"]["measures"]["mean"]["reason"]
    for name in ("summary.json", "legacy.json", "run.json"):
        assert json.loads((run / name).read_text())["warnings"] == ["reproduces faults"]


def test_two_runs_are_compared(tmp_path: Path, run: Path) -> None:
    wrong = write_run(tmp_path, fall=-0.3)
    compared = compare_runs(CHAPTERS, (run, "ttt"), (wrong, "ttt"))
    assert compared["losses"]["moshi"]["measures"]["at_1000"]["mean"] == pytest.approx(
        -0.4, abs=0.01
    )
    with pytest.raises(UserError, match="has no model tttt; it has baseline, ttt"):
        compare_runs(CHAPTERS, (run, "ttt"), (wrong, "tttt"))


@pytest.mark.parametrize(
    "key, value", [("dtype", "float32"), ("device", "cuda"), ("chunk", 16), ("batch", 2)]
)
def test_what_moves_a_bfloat16_loss_must_be_shared(tmp_path: Path, key: str, value: object) -> None:
    folders = [write_run(tmp_path / name, chapters=2, speakers=2) for name in ("one", "other")]
    described = ChapterRun.read(folders[0])
    for folder in folders:
        replace(described, dtype="bfloat16").write(folder)
    compare_runs(CHAPTERS, (folders[0], "baseline"), (folders[1], "ttt"))
    changed: dict[str, Any] = {"dtype": "bfloat16", key: value}
    replace(described, **changed).write(folders[1])
    with pytest.raises(UserError, match=f"{key} is .* in the first and {value} in the second"):
        compare_runs(CHAPTERS, (folders[0], "baseline"), (folders[1], "ttt"))
    for folder in folders:
        replace(ChapterRun.read(folder), dtype="float32").write(folder)
    assert compare_runs(CHAPTERS, (folders[0], "baseline"), (folders[1], "ttt"))


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not the folder of a chapter evaluation, no run\.json"):
        rescore(CHAPTERS, tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="not a readable description of a run"):
        rescore(CHAPTERS, tmp_path)
