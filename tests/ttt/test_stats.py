"""Intervals against hand values, scipy's bootstrap and coverage by simulation."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ttt.statistics.intervals import (
    Interval,
    bootstrap_interval,
    clustered_interval,
    clustered_ratio_interval,
    clustered_weighted_interval,
    difference_interval,
    effective_count,
    ratio_interval,
    wilson_interval,
)


def test_mean_and_interval_agree_with_scipy() -> None:
    values = np.random.default_rng(3).gamma(2.0, size=40)
    ours = bootstrap_interval(values, seed=0, resamples=20_000)
    reference = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean(), rel=1e-12)
    spread = reference.high - reference.low
    assert ours.low == pytest.approx(reference.low, abs=0.03 * spread)
    assert ours.high == pytest.approx(reference.high, abs=0.03 * spread)
    assert ours.n == 40
    assert ours.reason is None


def test_clustered_interval_agrees_with_resampling_clusters_one_by_one() -> None:
    generator = np.random.default_rng(5)
    names = [f"speaker{k}" for k in range(8) for _ in range(k + 1)]
    values = generator.normal(size=len(names)) + np.array([int(name[-1]) for name in names])
    ours = bootstrap_interval(values, seed=1, resamples=8000, clusters=names)
    groups = [values[[name == f"speaker{k}" for name in names]] for k in range(8)]
    oracle = [
        np.concatenate([groups[k] for k in generator.integers(0, 8, 8)]).mean() for _ in range(8000)
    ]
    low, high = np.quantile(oracle, [0.025, 0.975])
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(low, abs=0.05 * (high - low))
    assert ours.high == pytest.approx(high, abs=0.05 * (high - low))
    plain = bootstrap_interval(values, seed=1, resamples=8000)
    assert ours.high - ours.low > 1.3 * (plain.high - plain.low)


def test_interval_covers_the_true_mean_about_as_often_as_its_level_says() -> None:
    generator = np.random.default_rng(11)
    hits = 0
    for trial in range(400):
        interval = bootstrap_interval(generator.normal(size=30), seed=trial, resamples=400)
        hits += interval.low <= 0 <= interval.high
    # 95 % nominal; the percentile interval is a little short at n = 30.
    assert 0.90 <= hits / 400 <= 0.975


def test_ratio_by_hand_and_its_paired_interval() -> None:
    # mean 3 over mean 6; every pair has the ratio 1/2, so that every resample has it too.
    interval = ratio_interval([1.0, 3.0, 5.0], [2.0, 6.0, 10.0], seed=0)
    assert (interval.mean, interval.low, interval.high, interval.n) == (0.5, 0.5, 0.5, 3)
    # A ratio of means, not a mean of ratios: (1 + 9) / (1 + 3), not (1 + 3) / 2.
    assert ratio_interval([1.0, 9.0], [1.0, 3.0], seed=0).mean == 2.5


def test_difference_is_paired() -> None:
    baseline = np.random.default_rng(0).normal(scale=100, size=20)
    interval = difference_interval(baseline + 1.0, baseline, seed=0)
    assert interval.mean == pytest.approx(1.0)
    assert interval.high - interval.low < 1e-9


def test_same_seed_same_bytes_and_another_seed_another_draw() -> None:
    values = np.random.default_rng(1).normal(size=25)
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values, seed=4).low != bootstrap_interval(values, seed=5).low


def test_blocks_bound_the_memory_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).normal(size=50)
    whole = bootstrap_interval(values, seed=9, resamples=300)
    monkeypatch.setattr("ttt.statistics.intervals._BLOCK_ENTRIES", 700)
    blocked = bootstrap_interval(values, seed=9, resamples=300)
    assert (blocked.low, blocked.high) == (whole.low, whole.high)


def test_too_little_data_has_no_interval_and_says_why() -> None:
    assert bootstrap_interval([], seed=0) == Interval(None, None, None, 0, "no values")
    one = bootstrap_interval([2.0], seed=0)
    assert one == Interval(2.0, None, None, 1, "one value has no spread; two are needed")
    cluster = bootstrap_interval([1.0, 3.0], seed=0, clusters=["a", "a"])
    assert (cluster.mean, cluster.low) == (2.0, None)
    assert cluster.reason == "one cluster has no spread; two are needed"
    assert ratio_interval([1.0, 2.0], [0.0, 0.0], seed=0).reason == "the baseline's mean is 0"
    sometimes = ratio_interval([1.0, 2.0], [0.0, 1.0], seed=0)
    assert (sometimes.mean, sometimes.low) == (3.0, None)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"values\[1\] is nan; leave it out and count it"):
        bootstrap_interval([0.0, float("nan")], seed=0)
    with pytest.raises(ValueError, match="2 values cannot be paired with a baseline of 1"):
        ratio_interval([1.0, 2.0], [1.0], seed=0)
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got 95"):
        bootstrap_interval([1.0, 2.0], seed=0, level=95)
    with pytest.raises(ValueError, match="2 values but 1 cluster names"):
        bootstrap_interval([1.0, 2.0], seed=0, clusters=["a"])
    with pytest.raises(ValueError, match=r"one dimension, got shape \(1, 2\)"):
        bootstrap_interval(np.ones((1, 2)), seed=0)


@pytest.mark.parametrize("successes, n", [(0, 1), (0, 9), (3, 10), (50, 100), (999, 1000), (7, 7)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilsons_interval_is_scipys(successes: int, n: int, level: float) -> None:
    ours = wilson_interval(successes, n, level)
    theirs = scipy_stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert ours.mean == successes / n
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)


def test_wilsons_interval_of_nothing() -> None:
    assert wilson_interval(0, 0) == Interval(None, None, None, 0, "no values")
    with pytest.raises(ValueError, match="3 successes in 2 trials"):
        wilson_interval(3, 2)


def test_few_clusters_widen_a_ratio_too() -> None:
    generator = np.random.default_rng(2)
    names = [f"speaker {n // 4}" for n in range(24)]
    values, baseline = generator.uniform(1, 2, (2, 24))
    plain = ratio_interval(values, baseline, 0, 4000, 0.95, names)
    widened = clustered_ratio_interval(values, baseline, names, 0, 4000, "speaker")
    assert widened.mean == plain.mean
    assert widened.low < plain.low < plain.high < widened.high  # type: ignore[operator]


def test_fewer_than_five_clusters_give_no_interval_but_a_reason() -> None:
    values, names = [1.0, 2.0, 3.0, 4.0], ["a", "b", "c", "d"]
    alone = clustered_interval(values, names, 0, 100, "speaker")
    ratio = clustered_ratio_interval(values, [2.0] * 4, names, 0, 100, "speaker")
    assert (alone.mean, alone.low, ratio.mean, ratio.low) == (2.5, None, 1.25, None)
    assert alone.reason == ratio.reason == "4 speakers; an interval needs 5"


def test_equal_weights_give_students_t_of_the_clusters() -> None:
    values = np.random.default_rng(11).normal(size=9)
    ours = clustered_weighted_interval(values, np.full(9, 3.0), list(range(9)), "speaker")
    theirs = scipy_stats.t.interval(
        0.95, 8, loc=values.mean(), scale=values.std(ddof=1) / np.sqrt(len(values))
    )
    assert (ours.mean, ours.low, ours.high) == pytest.approx((values.mean(), *theirs), rel=1e-9)
    # Two equal halves of every cluster say nothing new.
    halves = clustered_weighted_interval(
        np.repeat(values, 2), np.full(18, 0.5), list(np.repeat(np.arange(9), 2)), "speaker"
    )
    assert (halves.low, halves.high) == pytest.approx((ours.low, ours.high), rel=1e-9)


def test_a_heavy_cluster_counts_as_the_few_it_leaves() -> None:
    assert effective_count([2, 2, 2]) == pytest.approx(3)
    assert effective_count([8, 1, 1]) == pytest.approx(100 / 66)
    rng = np.random.default_rng(12)
    weights = np.array([6.0, 3, 1, 1, 1, 1, 1, 1])
    held = 0
    for _ in range(1000):
        values = rng.normal(size=8) / np.sqrt(weights)
        found = clustered_weighted_interval(values, weights, list(range(8)), "speaker")
        assert found.mean == pytest.approx(np.average(values, weights=weights))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0 <= found.high
    assert held >= 930


def test_a_weighted_interval_needs_five_clusters_and_weights_above_zero() -> None:
    four = clustered_weighted_interval([1.0, 2, 3, 4], [1.0] * 4, list("abcd"), "speaker")
    assert (four.mean, four.low) == (2.5, None)
    assert four.reason == "4 speakers; an interval needs 5"
    one = clustered_weighted_interval([1.0, 2.0], [1.0, 3.0], ["a", "a"], "speaker")
    assert (one.mean, one.low) == (1.75, None)
    assert clustered_weighted_interval([], [], [], "speaker").reason == "no values"
    with pytest.raises(ValueError, match="weights must be above 0"):
        clustered_weighted_interval([1.0, 2.0], [1.0, 0.0], ["a", "b"], "speaker")


def test_few_normal_clusters_have_at_least_students_t() -> None:
    values = np.random.default_rng(5).normal(3, 1, 8)
    theirs = scipy_stats.t.interval(0.95, 7, values.mean(), scipy_stats.sem(values))
    ours = clustered_interval(values, range(8), 0, 2000, "clip")
    assert ours.low <= theirs[0] < theirs[1] <= ours.high  # type: ignore[operator]
    assert ours.high - ours.low < 1.6 * (theirs[1] - theirs[0])  # type: ignore[operator]


def test_a_skewed_mean_reaches_further_up_and_never_below_zero() -> None:
    values = np.exp(np.random.default_rng(6).normal(0, 1.2, 8))
    ours = clustered_interval(values, range(8), 0, 2000, "clip")
    assert ours.high - ours.mean > 1.3 * (ours.mean - ours.low)  # type: ignore[operator]
    assert ours.low >= 0  # type: ignore[operator]
    as_far = clustered_interval([0.0] * 7 + [1.0], range(8), 0, 2000, "clip")
    assert 0 <= as_far.low < 0.125 < as_far.high < 1.2  # type: ignore[operator]


def test_values_that_are_all_alike_leave_no_doubt() -> None:
    ratio = clustered_ratio_interval(
        [2.0, 4, 6, 8, 10], [1.0, 2, 3, 4, 5], range(5), 0, 200, "clip"
    )
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((2, 2, 2), abs=1e-12)


def test_a_ratio_to_what_may_be_zero_has_no_ends() -> None:
    values, baseline = [1.0, 2, 1, 2, 1], [2.0, -1.5, 2, -1, 1]
    ratio = clustered_ratio_interval(values, baseline, range(5), 0, 200, "speaker")
    assert ratio.mean == pytest.approx(7 / 2.5)
    assert (ratio.low, ratio.reason) == (None, "the baseline's mean cannot be told from 0")
    nothing = clustered_ratio_interval(values, [0.0] * 5, range(5), 0, 200, "speaker")
    assert (nothing.mean, nothing.reason) == (None, "the baseline's mean is 0")
    rarely = clustered_ratio_interval(values, [0.0] * 4 + [1], range(5), 0, 200, "speaker")
    assert rarely.reason == "the baseline's mean is 0 in some resamples"


def test_clustered_intervals_follow_from_their_seed() -> None:
    values = np.random.default_rng(7).lognormal(size=12)
    same = [clustered_interval(values, range(12), seed, 500, "clip") for seed in (3, 3, 4)]
    assert same[0] == same[1] != same[2]


def test_beyond_a_thousand_clusters_nothing_is_resampled() -> None:
    values = np.random.default_rng(8).normal(size=1001)
    few, many = (clustered_interval(values, range(1001), 0, n, "clip") for n in (1, 2000))
    assert few == many
