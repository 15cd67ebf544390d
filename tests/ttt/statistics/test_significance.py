"""Wilcoxon's test against scipy and against counting all signs; Holm by hand."""

import itertools

import numpy as np
import pytest
import scipy.stats

from ttt.statistics.significance import (
    adjust_for_many,
    holm,
    least_wilcoxon,
    paired_test,
    wilcoxon_signed_rank,
)


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


@pytest.mark.parametrize("n", [5, 6, 8, 9, 12, 30, 70])
def test_no_differences_of_as_many_have_a_smaller_p(n: int) -> None:
    least = least_wilcoxon([1.0] * n)
    rng = np.random.default_rng(n)
    found = [wilcoxon_signed_rank(rng.normal(1.5, 1, n)) for _ in range(200)]  # type: ignore[arg-type]
    assert least <= min(found)
    if n <= 12:  # Then all positive is likely, and reaches it.
        assert least == pytest.approx(min(found))
        assert least == pytest.approx(2 * 0.5**n)


def test_differences_of_zero_take_from_what_a_test_can_reach() -> None:
    assert least_wilcoxon([0.0, 0.0, 1.0, 2.0, -3.0]) == 0.25
    assert least_wilcoxon([0.0] * 9) == least_wilcoxon([]) == 1.0
    assert paired_test([1.0] * 4) == {"p_wilcoxon": None, "p_least": None}
    assert paired_test([1.0, -2, 3, 4, 5])["p_least"] == 2 / 2**5


@pytest.mark.parametrize(("units", "reaches"), [(5, False), (8, False), (9, True)])
def test_what_nine_rows_can_reach_after_holm(units: int, reaches: bool) -> None:
    rows = [dict(paired_test(np.arange(1, units + 1) + k)) for k in range(9)]  # type: ignore[arg-type]
    adjust_for_many(rows)
    assert {row["p_holm_least"] for row in rows} == {9 * 2 / 2**units}
    assert (rows[0]["p_holm"] < 0.05) is reaches  # type: ignore[operator]


def test_the_least_after_holm_knows_rows_of_other_lengths() -> None:
    rows = [dict(paired_test([1.0] * n)) for n in (3, 5, 10)]
    adjust_for_many(rows)
    assert [row["p_holm_least"] for row in rows] == [None, 2 / 2**5, 2 * 2 / 2**10]
