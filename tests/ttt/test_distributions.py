"""Chances and quantiles against scipy's."""

import pytest
import scipy.special
import scipy.stats

from ttt.statistics.studentized import beta_quantile, beta_share, student_t_quantile

_PARAMETERS = (0.05, 0.5, 1, 3.3, 20, 500, 8000.5, 1e5)


def test_student_t_is_scipys() -> None:
    for degrees in (1, 1.3, 2, 3, 4, 4.5, 5, 11, 30, 101, 1000, 55_000):
        for share in (0.5, 0.6, 0.9, 0.975, 0.9995):
            theirs = scipy.stats.t.ppf(share, degrees)
            assert student_t_quantile(share, degrees) == pytest.approx(theirs, rel=1e-9, abs=1e-9)


def test_student_t_refuses_what_it_does_not_cover() -> None:
    for share, degrees in ((0.4, 5), (1.0, 5), (0.9, 0)):
        with pytest.raises(ValueError, match="degrees of freedom; see the docstring"):
            student_t_quantile(share, degrees)


@pytest.mark.parametrize("a", _PARAMETERS)
def test_beta_is_scipys(a: float) -> None:
    for b in _PARAMETERS:
        for x in (0, 1e-6, 0.01, 0.3, 0.5, 0.9, 0.999, 1):
            assert beta_share(x, a, b) == pytest.approx(scipy.special.betainc(a, b, x), abs=1e-9)
        for share in (0, 0.025, 0.5, 0.975):
            theirs = scipy.stats.beta.ppf(share, a, b)
            assert beta_quantile(share, a, b) == pytest.approx(theirs, rel=1e-9, abs=1e-12)
