"""Runs summarised from their records alone: the same however they were cut up, nothing hidden."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image as mpl_image

from tests.ttt.eval.scored_pairs import SUMMARY, made_pairs, noisy, records, write_run
from ttt.errors import UserError
from ttt.eval.config import PairSummaryConfig
from ttt.eval.paired import compare_runs
from ttt.eval.pairs.accuracy import summarize_pairs
from ttt.eval.pairs.find import LeftOut, Pair, PairSet, Role
from ttt.eval.pairs.records import part_path, read_part, write_part
from ttt.eval.pairs.run import PairRun, items_root
from ttt.eval.pairs.scores import scored_pairs
from ttt.eval.pairs.summary import PAIRS
from ttt.eval.rescore import rescore, summarize_run

LOSSES = {"baseline": noisy(0), "ttt": noisy(1, 0.8)}
TASKS = [made_pairs(), made_pairs("sblimp", clusters=9)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("run"), LOSSES, TASKS)
    rescore(PAIRS, folder)
    return folder


def test_a_rescored_run_says_what_the_live_records_said(run: Path) -> None:
    summary = summarize_run(PAIRS, run)
    assert json.loads((run / "summary.json").read_text()) == json.loads(json.dumps(summary))
    for model, loss in LOSSES.items():
        for task in TASKS:
            (live,), _ = scored_pairs(records(task.pairs, loss))
            metric = summary["runs"][f"{model}-paper"]["metrics"][f"{task.task}_dev"]
            assert metric == summarize_pairs(live, SUMMARY)


def test_how_pairs_were_dealt_to_workers_means_nothing(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path, LOSSES, TASKS, pairs_per_part=2)
    assert summarize_run(PAIRS, other)["runs"] == summarize_run(PAIRS, run)["runs"]
    assert summarize_run(PAIRS, other)["comparisons"] == summarize_run(PAIRS, run)["comparisons"]


def test_comparisons_are_with_the_first_model_and_setting(run: Path) -> None:
    (compared,) = summarize_run(PAIRS, run)["comparisons"]
    assert (compared["first"], compared["second"]) == ("baseline-paper", "ttt-paper")
    between = compare_runs(PAIRS, (run, "baseline-paper"), (run, "ttt-paper"))["metrics"]
    assert compared["metrics"] == between
    # With itself: no difference, whatever the score.
    same = compare_runs(PAIRS, (run, "ttt-paper"), (run, "ttt-paper"))["metrics"]
    assert same["sblimp_dev"]["scores"]["semantic_mean"]["accuracy"]["p_wilcoxon"] == 1


def test_pictures_are_drawn_of_every_part(run: Path) -> None:
    names = {"accuracy", "difference", "strata_swuggy_dev", "strata_sblimp_dev"}
    there = {path.name for path in (run / "plots").iterdir()}
    assert there == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert mpl_image.imread(run / "plots" / "accuracy.png").ndim == 3
    assert "swuggy_dev" in (run / "plots" / "accuracy.svg").read_text()


def test_other_settings_need_no_other_records(run: Path) -> None:
    summary = summarize_run(PAIRS, run, PairSummaryConfig(score="semantic_sum", resamples=50))
    assert summary["run"]["summary"]["score"] == "semantic_sum"
    metric = summary["runs"]["ttt-paper"]["metrics"]["swuggy_dev"]
    assert metric["score"] == "semantic_sum"
    strata = metric["strata"]["length"].values()
    right = sum(group["right"] for group in strata)
    assert right == metric["scores"]["semantic_sum"]["right"]
    assert right != metric["scores"]["weighted_mean"]["right"]


def test_legacy_is_of_the_last_model_and_holds_all(run: Path, tmp_path: Path) -> None:
    result = json.loads((run / "legacy.json").read_text())
    assert result["run"] == "ttt-paper"
    assert result["swuggy_samples"] == len(TASKS[0].pairs)
    assert result["swuggy_accuracy"] == result["runs"]["ttt-paper"]["swuggy_accuracy"]
    assert result["swuggy_accuracy"] != result["runs"]["baseline-paper"]["swuggy_accuracy"]
    assert result["tstory_accuracy"] is result["paper_metrics_avg"] is None
    tied = {"baseline": lambda pair, role: 3.0}
    for strict, accuracy in ((False, 0.5), (True, 0)):
        folder = write_run(tmp_path / str(strict), tied, TASKS[1:], strict=strict)
        rescore(PAIRS, folder)
        assert json.loads((folder / "legacy.json").read_text())["sblimp_accuracy"] == accuracy


def _breaks(pair: Pair, role: Role) -> float | None:
    """Two negative recordings cannot be decoded; by NaN or by default they would lose or win."""
    if role == "negative" and pair.pair_id in ("dev/1/A", "dev/2/B"):
        return None
    return noisy(0)(pair, role)


def test_broken_pairs_and_pairs_left_out_lower_the_coverage(tmp_path: Path) -> None:
    task = made_pairs()
    left_out = LeftOut("dev", "dev/99/A", "no positive recording")
    task = PairSet(task.task, task.pairs, (left_out,))
    summary = summarize_run(PAIRS, write_run(tmp_path, {"baseline": _breaks}, [task]))
    whole = summarize_run(PAIRS, write_run(tmp_path / "whole", {"baseline": noisy(0)}, [task]))
    counted = summary["runs"]["baseline-paper"]
    assert counted["coverage"] == (len(task.pairs) - 2) / (len(task.pairs) + 1)
    (of_task,) = counted["tasks"].values()
    assert [each["pair_id"] for each in of_task["left_out"]] == ["dev/99/A", "dev/1/A", "dev/2/B"]
    assert of_task["left_out"][1]["reason"] == "dev/1/A/0: cannot be decoded"
    # The pairs that remain count as before, the broken ones neither as won nor as lost.
    metric = counted["metrics"]["swuggy_dev"]["scores"]["weighted_mean"]
    before = whole["runs"]["baseline-paper"]["metrics"]["swuggy_dev"]["scores"]["weighted_mean"]
    assert metric["pairs"] == before["pairs"] - 2
    assert metric["right"] <= before["right"]


def test_a_run_under_way_is_summarised_as_far_as_it_is(tmp_path: Path) -> None:
    folder = write_run(tmp_path, LOSSES, TASKS)
    root = items_root(folder, "ttt-paper")
    part_path(root, "swuggy", 1).unlink()
    shutil.rmtree(root / "sblimp")
    summary = rescore(PAIRS, folder)
    of_run = summary["runs"]["ttt-paper"]
    assert of_run["tasks"]["swuggy"]["not_scored_yet"] == 5
    assert of_run["tasks"]["sblimp"]["scored"] == of_run["coverage"] == 0
    assert list(of_run["metrics"]) == ["swuggy_dev"]
    (compared,) = summary["comparisons"]
    assert compared["metrics"]["swuggy_dev"]["left_out"] == 5
    assert list(compared["metrics"]) == ["swuggy_dev"]
    shutil.rmtree(folder / "items")
    assert rescore(PAIRS, folder)["runs"]["ttt-paper"]["metrics"] == {}


def test_runs_of_other_pairs_are_refused(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path, {"ttt": noisy(1)}, [made_pairs(clusters=11), TASKS[1]])
    with pytest.raises(UserError, match="2 pairs belong to one run only, the first is dev/11/A of"):
        compare_runs(PAIRS, (run, "baseline-paper"), (other, "ttt-paper"))
    with pytest.raises(UserError, match="has no ttt-seed; it has baseline-paper, ttt-paper"):
        compare_runs(PAIRS, (run, "baseline-paper"), (run, "ttt-seed"))
    with pytest.raises(UserError, match="not the folder of a run over pairs"):
        summarize_run(PAIRS, tmp_path / "none")


def test_scores_that_memory_has_moved_are_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path, LOSSES, TASKS)
    path = part_path(items_root(folder, "ttt-paper"), "sblimp", 0)
    first, *others = read_part(path)
    write_part(path, [replace(first, batch=1, as_planned=False), *others])
    assert not rescore(PAIRS, folder)["warnings"]
    described = replace(PairRun.read(folder), dtype="bfloat16", warnings=("a fault",))
    described.write(folder)
    summary = rescore(PAIRS, folder)
    assert [each["not_as_planned"] for each in summary["runs"].values()] == [0, 1]
    fault, moved = summary["warnings"]
    assert fault == "a fault"
    assert moved.startswith("ttt-paper: 1 recordings were heard in smaller batches or chunks than")
    assert json.loads((folder / "legacy.json").read_text())["warnings"] == [fault, moved]


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"dtype": "float32"}, "dtype is bfloat16 in the first and float32 in the second"),
        ({"device": "cuda"}, "device is cpu in the first and cuda in the second"),
        ({"chunk": 16}, "chunk is 32 in the first and 16 in the second"),
        ({"batch_items": 4}, "batch_items is 8 in the first and 4 in the second"),
        ({"batch_frames": 500}, "batch_frames is 1000 in the first and 500 in the second"),
    ],
)
def test_what_moves_a_bfloat16_score_must_be_shared(
    run: Path, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    described = PairRun.read(run)
    for name in ("one", "other"):
        shutil.copytree(run / "items", tmp_path / name / "items")
        replace(described, dtype="bfloat16").write(tmp_path / name)
    keys = ("baseline-paper", "ttt-paper")
    compare_runs(PAIRS, (tmp_path / "one", keys[0]), (tmp_path / "other", keys[1]))
    replace(described, **{"dtype": "bfloat16", **changed}).write(tmp_path / "other")
    with pytest.raises(UserError, match=words):
        compare_runs(PAIRS, (tmp_path / "one", keys[0]), (tmp_path / "other", keys[1]))
    replace(described, **changed).write(tmp_path / "other")
    assert compare_runs(PAIRS, (run, keys[0]), (tmp_path / "other", keys[1]))


def test_a_pair_that_one_run_could_not_score_is_left_out_of_both(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path, {"baseline": _breaks}, TASKS)
    compared = compare_runs(PAIRS, (run, "baseline-paper"), (other, "baseline-paper"))["metrics"]
    # Both tasks have pairs of these names.
    assert [compared[name]["left_out"] for name in ("swuggy_dev", "sblimp_dev")] == [2, 2]
    assert compared["swuggy_dev"]["scores"]["weighted_mean"]["margin"]["mean"] == 0
