"""The coverage benchmark in small: it finds what it is to find, and fails where it should."""

import numpy as np
import pytest

from benchmarks import coverage, coverage_worlds, recorded_rows
from benchmarks.coverage import Cell
from benchmarks.coverage_worlds import World
from ttt.statistics.intervals import Interval, bootstrap_interval

TRIALS = 120
# Three standard errors of a share of 0.92 in as many trials.
SLACK = 3 * (0.92 * 0.08 / TRIALS) ** 0.5


@pytest.mark.parametrize(
    ("units", "coverage", "trials", "missed"),
    [
        (8, 0.91, 1000, False),
        (8, 0.90, 1000, True),
        (8, 0.91, 10_000, True),
        (5, 0.90, 10_000, False),
        (5, 0.88, 1000, True),
    ],
)
def test_missed_is_what_trials_cannot_explain(
    units: int, coverage: float, trials: int, missed: bool
) -> None:
    assert Cell("a mean", "normal", units, coverage, trials, 1.0, 1.0).missed is missed


def test_every_kind_of_interval_covers_what_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage_worlds, "RESAMPLES", 300)
    cells = coverage.worst(coverage.simulate((5, 8), TRIALS, quick=True, processes=1))
    kinds = {cell.interval for cell in cells}
    assert len(cells) == 2 * len(kinds) == 20
    for cell in cells:
        assert cell.coverage >= coverage.required(cell.units) - SLACK, cell
        assert cell.printed > 0.9, cell


def test_an_interval_that_is_too_narrow_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def percentile(rng: np.random.Generator, n: int) -> tuple[Interval, float]:
        return bootstrap_interval(rng.lognormal(0, 1, n), seed=0, resamples=300), 1.0

    world = World("a mean", "log-normal", float(np.exp(0.5)), percentile)
    monkeypatch.setattr(coverage, "worlds", lambda *_: iter([world]))
    found = coverage.simulate((5,), TRIALS, quick=True, processes=1)
    assert found[0].coverage < coverage.required(5) - SLACK
    assert coverage.main(["--quick", "--trials", "60", "--processes", "1"]) == 1


def test_without_recordings_the_synthetic_voice_stands_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr(recorded_rows, "RECORDED", tmp_path / "none")  # type: ignore[operator]
    monkeypatch.setattr(recorded_rows, "SPOKEN", 2)
    rows = recorded_rows.recorded_rows.__wrapped__()
    assert all(len(row) == 8 and np.isfinite(row).all() for row in rows.values())
    assert 1 < rows["lsd"].mean() < 4
