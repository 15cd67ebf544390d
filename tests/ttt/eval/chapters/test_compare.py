"""Paired comparison: nothing from nothing, a planted difference found, different inputs refused."""

import dataclasses

import numpy as np
import pytest

from tests.ttt.eval.long_records import record
from ttt.errors import UserError
from ttt.eval.chapters.compare import compare
from ttt.eval.chapters.measures import ChapterMeasures, measure_chapter
from ttt.eval.config import LongContextConfig

CONFIG = LongContextConfig(
    positions=(20, 100), window_frames=20, min_slope_frames=10, resamples=400
)


def _measured(losses: list[np.ndarray]) -> list[ChapterMeasures]:
    return [
        measure_chapter(record(loss, f"c{k}", f"speaker {k % 6}"), 30, CONFIG)
        for k, loss in enumerate(losses)
    ]


def _noise(seed: int, frames: int = 150) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(3 + rng.normal(), 0.5, frames) for _ in range(12)]


def test_a_model_against_itself() -> None:
    chapters = _measured(_noise(0))
    for row in compare(chapters, chapters, CONFIG)["losses"]["moshi"]["measures"].values():
        assert (row["mean"], row["low"], row["high"]) == (0, 0, 0)
        assert row["p_wilcoxon"] == row["p_holm"] == 1


def test_a_planted_difference_is_found_and_paired() -> None:
    # Chapters differ by about 1 from each other, the models by 0.1 beyond frame 75 only.
    losses = _noise(1)
    better = [np.where(np.arange(150) < 75, loss, loss - 0.1) for loss in losses]
    rows = compare(_measured(losses), _measured(better), CONFIG)["losses"]["uniform"]["measures"]
    assert rows["at_100"]["mean"] == pytest.approx(-0.1, abs=1e-6)
    assert rows["at_100"]["high"] < -0.09
    assert rows["at_100"]["p_wilcoxon"] == pytest.approx(2 / 2**6)  # six speakers, all lower
    assert rows["at_100"]["speakers"] == 6
    assert rows["at_20"]["p_wilcoxon"] == 1
    assert rows["slope_per_frame"]["mean"] < 0
    assert rows["at_100"]["p_holm"] == pytest.approx(5 * 2 / 2**6)  # five measures
    order = list(reversed(_measured(better)))
    assert compare(_measured(losses), order, CONFIG)["losses"]["uniform"]["measures"] == rows


def test_the_curve_of_differences_is_paired() -> None:
    losses = _noise(5)
    better = [np.where(np.arange(150) < 64, loss, loss - 0.1) for loss in losses]
    compared = compare(_measured(losses), _measured(better), CONFIG)
    curve = compared["losses"]["semantic"]["curve"]
    # Edges 0 16 19 23 27 32 38 45 54 64 76 91 108 128
    assert curve["mean"] == pytest.approx([0.0] * 9 + [-0.1] * 4, abs=1e-6)
    assert curve["high"][-1] < -0.09


@pytest.mark.parametrize(
    ("lengths", "differences", "drawn", "counted"),
    [
        # Whoever reaches a bin, averaged: a drop at 64 frames that is in no chapter.
        ([64] * 6 + [400] * 6, [0.0] * 6 + [-0.2] * 6, -0.2, 6),
        ([400] * 6 + [64] * 6, [0.0] * 6 + [-0.2] * 6, 0.0, 6),
        ([400] * 8 + [64] * 4, [0.1] * 8 + [-0.2] * 4, 0.1, 8),
        ([64] * 8 + [400] * 4, [-0.3] * 12, -0.3, 12),  # the median is short, and all reach it
        ([64, 80, 100, 140, 200, 400] * 2, [-0.1] * 12, -0.1, 6),
    ],
)
def test_the_curve_of_differences_has_the_same_chapters_at_every_point(
    lengths: list[int], differences: list[float], drawn: float, counted: int
) -> None:
    rng = np.random.default_rng(7)
    losses = [rng.normal(3, 0.5, n) for n in lengths]
    other = [loss + d for loss, d in zip(losses, differences, strict=True)]
    curve = compare(_measured(losses), _measured(other), CONFIG)["losses"]["moshi"]["curve"]
    assert curve["mean"] == pytest.approx([drawn] * len(curve["mean"]), abs=1e-6)
    assert set(curve["n"]) == {counted}


@pytest.mark.parametrize(
    ("shift", "scatter", "margin", "expected"),
    [
        (0.0005, 0.0005, 0.002, True),  # a difference that is there, and too small to matter
        (0.0, 0.0, 0.002, True),
        (0.0019, 0.001, 0.002, False),  # the mean is inside, the interval is not
        (0.0, 0.02, 0.002, False),  # nothing known
        (-0.003, 0.0001, 0.002, False),
        (0.003, 0.0001, 0.02, True),
    ],
)
def test_two_models_are_equivalent_only_where_the_whole_interval_is(
    shift: float, scatter: float, margin: float, expected: bool
) -> None:
    config = dataclasses.replace(CONFIG, startup_frames=50, equivalence_margin=margin)
    rng = np.random.default_rng(8)
    losses = _noise(8)

    def measured(moved: bool) -> list[ChapterMeasures]:
        found = []
        for k, loss in enumerate(losses):
            # Before frame 50 the second model pays much, and that is start-up.
            paid = np.where(np.arange(150) < 50, 1.0, shift + scatter * rng.normal())
            there = loss + paid if moved else loss
            found.append(measure_chapter(record(there, f"c{k}", f"s{k}"), 30, config))
        return found

    told = compare(measured(False), measured(True), config)["losses"]["semantic"]["equivalence"]
    assert told["equivalent"] is expected
    assert told["margin"] == margin
    assert told["mean"] == pytest.approx(shift, abs=max(scatter, 1e-6))


def test_equivalence_is_not_said_unasked_nor_of_few_speakers() -> None:
    chapters = _measured(_noise(9))
    assert compare(chapters, chapters, CONFIG)["losses"]["moshi"]["equivalence"] is None
    config = dataclasses.replace(CONFIG, equivalence_margin=0.1)
    few = [c for c in chapters if c.speaker < "speaker 4"]
    told = compare(few, few, config)["losses"]["moshi"]["equivalence"]
    assert (told["low"], told["equivalent"]) == (None, None)


def test_a_run_that_lacks_the_last_frames_lacks_a_bin() -> None:
    losses = _noise(6)
    whole, cut = _measured(losses), _measured([loss[:127] + 1 for loss in losses])
    for pair, sign in (((whole, cut), 1), ((cut, whole), -1)):
        curve = compare(*pair, CONFIG)["losses"]["acoustic"]["curve"]
        assert curve["mean"] == pytest.approx([sign] * 12, abs=1e-6)


def test_few_speakers_have_neither_interval_nor_p() -> None:
    chapters = [c for c in _measured(_noise(2)) if c.speaker < "speaker 4"]
    row = compare(chapters, chapters, CONFIG)["losses"]["moshi"]["measures"]["mean"]
    assert row["low"] is row["p_wilcoxon"] is row["p_holm"] is None
    assert row["reason"] == "4 speakers; an interval needs 5"


def test_windows_that_few_chapters_reach_use_those() -> None:
    losses = [loss[: 150 if k < 6 else 60] for k, loss in enumerate(_noise(3))]
    rows = compare(_measured(losses), _measured(losses), CONFIG)["losses"]["moshi"]["measures"]
    assert rows["at_100"]["n"] == 6
    assert rows["at_20"]["n"] == 12


def test_other_chapters_and_other_codes_are_refused() -> None:
    chapters = _measured(_noise(4))
    with pytest.raises(UserError, match="1 chapters belong to one model only, the first is c11"):
        compare(chapters, chapters[:-1], CONFIG)
    other = [dataclasses.replace(chapters[0], codes_sha256="other"), *chapters[1:]]
    with pytest.raises(
        UserError, match="1 chapters were scored on different codes, the first is c0"
    ):
        compare(chapters, other, CONFIG)
