"""What is said of ViSQOL beside a verdict, and which part of which clips it hears."""

from __future__ import annotations

from typing import Any

import pytest

from ttt.snac.evaluation.systems import BASELINE, CEILING, HISS, OURS
from ttt.snac.evaluation.visqol import (
    missing,
    passage,
    spread_evenly,
    summarize_visqol,
    told_by,
)

GOOD = {"kind": "good", "heading": "Better than resampling"}
MIXED = {"kind": "mixed", "heading": "Not shown to be better than resampling"}
BAD = {"kind": "bad", "heading": "Worse than resampling"}
NONE = {"kind": "bad", "heading": "No verdict"}


def summarized(
    differences: list[float], verdict: dict[str, str] = GOOD, speakers: Any = None
) -> dict[str, Any]:
    scores = [{OURS: 3 + d, BASELINE: 3.0, HISS: 2.9} for d in differences]
    speakers = speakers or [None] * len(scores)
    return summarize_visqol(scores, speakers, verdict, seed=0, resamples=500)


HIGHER, LOWER = [0.3, 0.32, 0.28, 0.31, 0.29, 0.3], [-0.3, -0.32, -0.28, -0.31, -0.29, -0.3]
EITHER = [0.3, -0.3, 0.2, -0.25, 0.1, -0.05]


@pytest.mark.parametrize(
    "differences, verdict, says, contradicts",
    [
        (HIGHER, GOOD, "By it ours is better.", False),
        (LOWER, GOOD, "This contradicts the verdict: by ViSQOL resampling is better.", True),
        (EITHER, GOOD, "By it neither is shown to be better.", False),
        (HIGHER, MIXED, "By it ours is better.", False),
        (LOWER, MIXED, "By it resampling is better.", False),
        (HIGHER, BAD, "This contradicts the verdict: by ViSQOL ours is better.", True),
        (LOWER, BAD, "By it resampling is better.", False),
        (HIGHER, NONE, "By it ours is better.", False),
        (LOWER[:4], GOOD, "By it neither is shown to be better.", False),
    ],
)
def test_it_is_no_part_of_the_verdict_and_a_contradiction_is_said(
    differences: list[float], verdict: dict[str, str], says: str, contradicts: bool
) -> None:
    summary = summarized(differences, verdict)
    assert summary["sentence"].endswith(says)
    assert summary["contradicts"] is contradicts
    assert "no part of the verdict" in summary["sentence"]


def test_means_are_over_what_was_scored_and_speakers_are_the_units() -> None:
    scores: list[Any] = [{OURS: 3.5, BASELINE: 3.0, CEILING: None}, None, {OURS: 2.5, BASELINE: 3}]
    summary = summarize_visqol(scores, [None] * 3, GOOD, seed=0, resamples=100)
    assert summary["systems"][OURS]["mean"] == 3.0
    assert summary["systems"][OURS]["n"] == 2
    assert CEILING not in summary["systems"], "a row without any score is named as not measured"
    assert "no interval: 2 clips; an interval needs 5" in summary["sentence"]
    few = summarized(HIGHER, speakers=["a", "a", "a", "b", "b", "b"])
    assert few["difference"]["reason"] == "2 speakers; an interval needs 5"


def test_nothing_scored_is_missing_and_old_summaries_say_so() -> None:
    assert summarize_visqol([None], [None], GOOD, seed=0, resamples=100) == missing(
        "no clip could be scored"
    )
    assert told_by({})["sentence"].startswith("ViSQOL was not measured")
    ours_silent: list[Any] = [{OURS: None, BASELINE: 3.0}] * 5
    summary = summarize_visqol(ours_silent, [None] * 5, GOOD, seed=0, resamples=100)
    assert summary["sentence"] == "ViSQOL has no clip with a score of both ours and resampling."


@pytest.mark.parametrize(
    "count, most, places",
    [(3, 20, [0, 1, 2]), (0, 20, []), (101, 5, [0, 25, 50, 75, 100]), (9, 1, [0]), (2, 2, [0, 1])],
)
def test_clips_are_spread_evenly(count: int, most: int, places: list[int]) -> None:
    assert spread_evenly(count, most) == places


def test_the_middle_is_heard() -> None:
    assert passage(100, 48_000) == slice(0, 100)
    assert passage(480_000, 48_000) == slice(120_000, 360_000)
