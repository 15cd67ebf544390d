"""Which validation is the best where guards decide."""

from __future__ import annotations

import math

import pytest

from ttt.snac.train.guards import failing, guarded_value
from ttt.training.trainee import Row, ValidationResult

BASELINE = {"lsd_lf": 1.0, "l1": 0.02, "si_sdr": 5.0, "env_r": 0.4, "lsd_hf": 3.0}
AS_GOOD = {"lsd_lf": 1.02, "l1": 0.0202, "si_sdr": 4.5, "env_r": 0.5, "lsd_hf": 2.0}


def rows(ours: Row, tricks: Row | None = None) -> dict[str, Row]:
    row = {"env_r": 0.5, "lsd_hf": 1.5} if tricks is None else tricks
    return {"ours_48k": ours, "resampled_decode24": BASELINE, "tricks": row}


def test_at_their_bounds_all_guards_hold() -> None:
    assert failing(rows(AS_GOOD)) == []


@pytest.mark.parametrize(
    ("metric", "value"), [("lsd_lf", 1.03), ("l1", 0.0205), ("si_sdr", 4.4), ("env_r", 0.49)]
)
def test_beyond_its_bound_a_guard_fails_and_so_does_no_number(metric: str, value: float) -> None:
    assert failing(rows({**AS_GOOD, metric: value})) == [metric]
    assert failing(rows({**AS_GOOD, metric: math.nan})) == [metric]
    assert failing(rows({k: v for k, v in AS_GOOD.items() if k != metric})) == [metric]


def test_where_nothing_moves_in_the_truth_no_trick_follows_it_either() -> None:
    silent = {k: v for k, v in AS_GOOD.items() if k != "env_r"}
    assert failing(rows(silent, tricks={"lsd_hf": 1.5})) == []


def test_any_validation_whose_guards_hold_is_better_than_all_others() -> None:
    def value(ours: Row, loss: float) -> float:
        return guarded_value(ValidationResult(loss, {}, rows(ours)))

    held, held_better = value(AS_GOOD, 9.0), value({**AS_GOOD, "lsd_hf": 1.9}, 10.0)
    failed, failed_better = (value({**AS_GOOD, "l1": 0.1, "lsd_hf": 0.5}, x) for x in (5.0, 4.0))
    assert held_better < held < failed_better < failed
    assert held == 2.0
    assert math.isnan(value({**AS_GOOD, "l1": math.nan}, math.nan))  # never the best
