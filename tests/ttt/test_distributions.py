"""Quantiles against scipy's."""

import pytest
import scipy.stats

from ttt.distributions import student_t_quantile


def test_student_t_is_scipys() -> None:
    for degrees in (1, 2, 3, 4, 5, 11, 30, 101, 1000):
        for share in (0.5, 0.6, 0.9, 0.975, 0.9995):
            theirs = scipy.stats.t.ppf(share, degrees)
            assert student_t_quantile(share, degrees) == pytest.approx(theirs, rel=1e-9, abs=1e-9)
