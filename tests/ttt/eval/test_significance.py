"""Wilcoxon's test against scipy and against counting all signs; Holm by hand."""

import itertools

import numpy as np
import pytest
import scipy.stats

from ttt.eval.significance import holm, wilcoxon_signed_rank


@pytest.mark.parametrize("n", [1, 2, 5, 6, 12, 25, 50])
def test_exact_p_values_are_scipys(n: int) -> None:
    for seed in range(5):
        x = np.random.default_rng([n, seed]).normal(0.3, 1, n)
        assert wilcoxon_signed_rank(x) == pytest.approx(  # type: ignore[arg-type]
            scipy.stats.wilcoxon(x, method="exact").pvalue, rel=1e-12
        )


@pytest.mark.parametrize("ties", [False, True])
def test_many_differences_take_the_normal_approximation(ties: bool) -> None:
    for seed in range(5):
        x = np.random.default_rng(seed).normal(0.1, 1, 120)
        x = np.round(x, 1) if ties else x
        theirs = scipy.stats.wilcoxon(x, method="asymptotic", correction=False).pvalue
        assert wilcoxon_signed_rank(x) == pytest.approx(theirs, rel=1e-9)  # type: ignore[arg-type]


def test_ties_are_exact_too() -> None:
    x = np.array([1, 1, -1, 2, 2, -3, 4, 4, 4.0])
    ranks = scipy.stats.rankdata(np.abs(x))
    smaller = min(ranks[x > 0].sum(), ranks[x < 0].sum())
    sums = [np.dot(signs, ranks) for signs in itertools.product([0, 1], repeat=len(x))]
    assert wilcoxon_signed_rank(x) == pytest.approx(2 * np.mean(np.array(sums) <= smaller))  # type: ignore[arg-type]


def test_zeros_and_nothing() -> None:
    assert wilcoxon_signed_rank([]) == wilcoxon_signed_rank([0.0, 0.0]) == 1.0
    assert wilcoxon_signed_rank([0.0, 1.0, 2.0]) == wilcoxon_signed_rank([1.0, 2.0])
    assert wilcoxon_signed_rank([1.0, -2.0, 3.0]) == wilcoxon_signed_rank([-1.0, 2.0, -3.0])
    with pytest.raises(ValueError, match="must be finite"):
        wilcoxon_signed_rank([1.0, float("nan")])


def test_p_values_are_uniform_when_nothing_differs() -> None:
    rng = np.random.default_rng(0)
    p = [wilcoxon_signed_rank(rng.normal(size=12)) for _ in range(600)]  # type: ignore[arg-type]
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.07


def test_holm_by_hand() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
