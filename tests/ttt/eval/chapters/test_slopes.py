"""Weights of slopes by hand, and what they keep of a planted slope when summaries use them."""

import numpy as np
import pytest

from tests.ttt.eval.long_records import record
from ttt.eval.chapters.compare import compare
from ttt.eval.chapters.long_context import (
    WEIGHTING,
    slope_interval,
    slope_weights,
    speaker_slopes,
    summarize,
)
from ttt.eval.chapters.measures import ChapterMeasures, measure_chapter
from ttt.eval.config import LongContextConfig
from ttt.statistics.intervals import effective_count

CONFIG = LongContextConfig(positions=(20,), window_frames=20, min_slope_frames=10, resamples=100)


def test_chapters_of_a_speaker_weigh_by_what_they_know() -> None:
    assert slope_weights([1.0, 8.0], ["a", "a"]) == pytest.approx([1 / 9, 8 / 9])
    assert speaker_slopes([9.0, 0.0, 5.0], [1.0, 8.0, 2.0], list("aab")) == pytest.approx([1, 5])


def test_no_speaker_weighs_more_than_twice_the_mean() -> None:
    # 100 is cut to c = 2 (c + 4) / 5.
    weights = slope_weights([100.0, 1, 1, 1, 1], list("abcde"))
    assert weights == pytest.approx([0.4, 0.15, 0.15, 0.15, 0.15])
    # The speaker is cut, not the chapter: its chapters share what is left as they did.
    weights = slope_weights([75.0, 25, 1, 1, 1, 1], list("aabcde"))
    assert weights == pytest.approx([0.3, 0.1, 0.15, 0.15, 0.15, 0.15])
    # Weights within the bound stay what information says.
    assert slope_weights([3.0, 2, 2, 1, 2], list("abcde")) == pytest.approx(
        np.array([3, 2, 2, 1, 2]) / 10
    )


@pytest.mark.parametrize("spread", [0.1, 1, 3, 8])
@pytest.mark.parametrize("speakers", [1, 2, 5, 30])
def test_speakers_are_worth_half_of_their_number_whatever_they_read(
    speakers: int, spread: float
) -> None:
    rng = np.random.default_rng(speakers)
    who = [str(name) for name in np.repeat(np.arange(speakers), 3)]
    weights = slope_weights(rng.lognormal(20, spread, len(who)).tolist(), who)
    assert weights.sum() == pytest.approx(1)
    of_speakers = weights.reshape(speakers, 3).sum(1)
    assert of_speakers.max() <= 2 / speakers + 1e-9
    assert effective_count(of_speakers) >= speakers / 2 - 1e-9


def test_nothing_has_no_slope_and_one_value_no_interval() -> None:
    assert slope_interval([], [], [])["mean"] is None
    one = slope_interval([2.0], [1.0], ["a"])
    assert (one["mean"], one["low"], one["effective_speakers"]) == (2.0, None, 1.0)


def _chapters(seed: int, tilt: float = 0.0) -> list[ChapterMeasures]:
    """Flat chapters but for `tilt`, five of twelve hardly longer than the window of 30."""
    rng = np.random.default_rng(seed)
    lengths = [45, 600, 48, 600, 52, 700, 660, 650, 46, 610, 620, 49]
    return [
        measure_chapter(
            record(3 + tilt * np.arange(n) + rng.normal(0, 1, n), f"c{k}", f"s{k}"), 30, CONFIG
        )
        for k, n in enumerate(lengths)
    ]


def test_short_chapters_do_not_drown_a_slope() -> None:
    found = summarize(_chapters(0, tilt=-1e-2), 30, CONFIG)["losses"]["uniform"]["measures"]
    for name in ("slope_per_frame", "slope_per_doubling"):
        assert found[name]["high"] < 0, name
        assert found[name]["n"] == 12
        assert found[name]["weighting"] == WEIGHTING
        assert 6 <= found[name]["effective_speakers"] <= 12
    assert found["slope_per_frame"]["mean"] == pytest.approx(-1e-2, rel=0.2)
    assert "weighting" not in found["mean"]


def test_a_difference_of_slopes_is_the_difference_of_the_two_models() -> None:
    first, second = _chapters(1), _chapters(2, tilt=-1e-2)
    slopes = [
        summarize(chapters, 30, CONFIG)["losses"]["moshi"]["measures"]["slope_per_frame"]["mean"]
        for chapters in (first, second)
    ]
    row = compare(first, second, CONFIG)["losses"]["moshi"]["measures"]["slope_per_frame"]
    assert row["mean"] == pytest.approx(slopes[1] - slopes[0], rel=1e-9)
    assert row["weighting"] == WEIGHTING
    assert row["high"] < 0


def test_information_is_that_of_least_squares() -> None:
    chapter = measure_chapter(record(np.zeros(100)), 30, CONFIG)
    n = 70
    assert chapter.slope_information["slope_per_frame"] == pytest.approx(n * (n**2 - 1) / 12)
    doublings = np.log2(np.arange(30, 100))
    assert chapter.slope_information["slope_per_doubling"] == pytest.approx(n * doublings.var())
    short = measure_chapter(record(np.zeros(39)), 30, CONFIG)
    assert set(short.slope_information.values()) == {None}
