"""The benchmark of slopes: its draws are those of fitted ones, and its reach is reached."""

import numpy as np
import pytest

from benchmarks import slopes
from tests.ttt.eval.long_records import noisy_loss, record
from ttt.eval.chapters.measures import measure_chapter
from ttt.eval.config import LongContextConfig


def test_drawn_slopes_scatter_as_fitted_ones_do() -> None:
    rng = np.random.default_rng(0)
    config = LongContextConfig(positions=(500,))
    fitted = [measure_chapter(record(noisy_loss(rng, 3700)), 3000, config) for _ in range(400)]
    information = fitted[0].slope_information["slope_per_frame"]
    assert information == pytest.approx(700 * (700**2 - 1) / 12)
    values = [chapter.values["semantic"]["slope_per_frame"] for chapter in fitted]
    # A standard deviation of 400 draws is known to 3.5 %.
    assert np.std(values) == pytest.approx(slopes.slope_deviation(np.array(information)), rel=0.1)


def test_a_planted_slope_is_found_where_it_was_missed() -> None:
    def found(way) -> float:
        ends = list(slopes.intervals(way, 30, 1, 0.0, 150))
        return float(np.mean([high < 0 for _, high in ends]))

    assert found(slopes.alike) < 0.5
    assert found(slopes.weighted) >= 0.95


@pytest.mark.parametrize("own", slopes.OWN_SLOPES)
@pytest.mark.parametrize(("speakers", "least"), [(5, 0.90), (8, 0.92), (30, 0.92)])
def test_intervals_hold_the_slope_as_often_as_they_say(
    speakers: int, least: float, own: float
) -> None:
    # The standard error of a share of 0.95 in 1,000 runs is 0.007.
    assert slopes.coverage(speakers, slopes.MIXED, own, 1000) >= least
