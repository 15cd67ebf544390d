"""The page and the terminal of pairs: no accuracy claims more certainty than its pairs give."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.moshi.compare import compare_pairs, text_of
from ray_jobs.reports import pairs as pair_report
from ray_jobs.reports import together as all_report
from tests.ttt.eval.scored_pairs import made_pairs, write_run
from ttt.eval.figures import pair_figures
from ttt.eval.pairs.find import Pair, Role
from ttt.eval.pairs.summary import PAIRS
from ttt.eval.rescore import rescore

# Clopper and Pearson's for 12 of 12.
LOWEST = 100 * 0.025 ** (1 / 12)


def _right(_: Pair, role: Role) -> float:
    return 3.0 - (role == "positive")


def _wrong(_: Pair, role: Role) -> float:
    return 3.0 + (role == "positive")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    losses = {"right": _right, "wrong": _wrong, "again": _right}
    return write_run(tmp_path_factory.mktemp("run"), losses, [made_pairs(clusters=12)])


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    return rescore(PAIRS, run)


def _intervals(tree: Any) -> Iterator[dict[str, Any]]:
    """Every interval of an accuracy, or of their difference, anywhere in a summary."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in ("macro", "micro", "wilson", "accuracy"):
                yield value
            else:
                yield from _intervals(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _intervals(value)


def test_no_interval_of_a_summary_collapses(summary: dict[str, Any]) -> None:
    found = [each for each in _intervals(summary) if each["low"] is not None]
    assert len(found) > 60
    assert all(each["high"] - each["low"] > 0.1 for each in found)
    assert {each["mean"] for each in found} == {1.0, 0.0, -1.0}


def test_terminal_tile_and_tables_show_what_twelve_words_can_say(summary: dict[str, Any]) -> None:
    assert f"right-paper: swuggy_dev 100.0 (95 % interval {LOWEST:.1f} to 100.0, " in "\n".join(
        pair_report.headline_words(summary)
    )
    pages = [
        pair_report.build_report(summary, {}),
        all_report.build_report({"pairs": summary}, ({}, None)),
    ]
    for page in pages:
        text = re.sub(r"<[^>]+>", "\n", page)
        assert f"95 % interval {LOWEST:.1f} to 100.0" in text
        assert f"95 % interval 0.0 to {100 - LOWEST:.1f}" in text
        assert f"{LOWEST:.1f} to 100.0, n = 12" in text
        for certain in ("100.0 to 100.0", "0.0 to 0.0", "0.00 to 0.00", "-100.00 to -100.00"):
            assert f" {certain}" not in text
            assert f"\n{certain}" not in text
        assert "Wilson" not in text


def test_pictures_draw_the_same_intervals(summary: dict[str, Any]) -> None:
    drawn = pair_figures(summary)
    assert {"accuracy", "difference", "strata_swuggy_dev"} <= drawn.keys()
    for picture in drawn.values():
        for series in picture.keywords["series"].values():
            assert all(not high - low <= 0.1 for _, low, high in series)


def test_a_comparison_says_what_p_its_words_can_reach(run: Path) -> None:
    table = text_of(compare_pairs(f"{run}:right-paper", f"{run}:wrong-paper"))
    assert (
        "p = 0.000488, 0.000488 after Holm (least possible: 0.00049, 0.00049 after Holm)" in table
    )
    same = text_of(compare_pairs(f"{run}:right-paper", f"{run}:again-paper"))
    assert re.search(r"\+0\.00  \[-\d+\.\d\d, \+\d+\.\d\d\]", same)
    assert "p = 1, 1 after Holm (least possible: 1, 1 after Holm, too few to reach 0.05)" in same
