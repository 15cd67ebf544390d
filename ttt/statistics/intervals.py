"""Means, differences and ratios with intervals that few units can bear; shares with Wilson's.

A number without an interval is an anecdote. What the project prints are `clustered_interval` and
`clustered_ratio_interval`: whole clusters (speakers, chapters, clips) are the units, and few of
them widen it (`python -m benchmarks.coverage` says how often each holds the truth). The plain
percentile intervals (`bootstrap_interval` and its kin) are for many independent values. Too little
data gives no interval and says why; it never gives zeros. `ttt.statistics.accuracies` has shares.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from ttt.statistics.studentized import interval_ends, standard_error
from ttt.statistics.studentized import student_t_quantile as student_t_quantile

Values = Sequence[float] | npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]

FEWEST_CLUSTERS = 5
"""Independent units below which the clustered intervals have no ends."""


@dataclass(frozen=True)
class Interval:
    """A statistic with its bootstrap interval; low and high are None when there is none."""

    mean: float | None
    """The statistic of all values; None when it is undefined (no values, or 0 / 0)."""
    low: float | None
    """Lower end of the percentile interval."""
    high: float | None
    """Upper end of the percentile interval."""
    n: int
    """How many values went in."""
    reason: str | None = None
    """Why there is no interval; None when there is one."""

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        return asdict(self)


def bootstrap_interval(
    values: Values,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """The mean of `values` [n] with its percentile interval.

    `clusters` names one cluster per value. Raises ValueError for NaN or infinite values (leave
    them out and count them first), and when lengths differ.
    """
    numbers = finite(values, "values")
    return _ratio(numbers, np.ones_like(numbers), seed, resamples, level, clusters)


def difference_interval(
    values: Values,
    baseline: Values,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """The mean of `values - baseline` [n], paired: entry i of both is the same clip."""
    first, second = _paired(values, baseline)
    return bootstrap_interval(first - second, seed, resamples, level, clusters)


def ratio_interval(
    values: Values,
    baseline: Values,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """The ratio of means mean(values) / mean(baseline), paired: both are resampled together."""
    first, second = _paired(values, baseline)
    return _ratio(first, second, seed, resamples, level, clusters)


def clustered_interval(
    values: Values, clusters: Sequence[Hashable], seed: int, resamples: int, unit: str
) -> Interval:
    """The mean of values with the 95 % interval of `clustered_ratio_interval`.

    Args:
        clusters: the name of each value's cluster, such as its speaker.
        unit: what a cluster is called where there are too few, such as speaker.
    """
    numbers = finite(values, "values")
    return clustered_ratio_interval(numbers, np.ones_like(numbers), clusters, seed, resamples, unit)


def clustered_ratio_interval(
    values: Values,
    baseline: Values,
    clusters: Sequence[Hashable],
    seed: int,
    resamples: int,
    unit: str,
) -> Interval:
    """mean(values) / mean(baseline), paired, with a 95 % interval that few clusters can bear.

    It reaches as far as the farthest of these, but at most three times as far as the first:
    Student's t on what each cluster adds to the ratio, its spread corrected for clusters that
    weigh much and its degrees of freedom for clusters that weigh differently; the bootstrap of
    that t, which knows how skewed the clusters are; and, where nothing is below 0, the upper end
    of t on the logarithm. Below five clusters there are no ends.

    Args:
        clusters: the name of each value's cluster, such as its speaker.
        unit: what a cluster is called where there are too few, such as speaker.
    """
    first, second = _paired(values, baseline)
    n, total = len(first), float(second.sum())
    if n == 0:
        return Interval(None, None, None, 0, "no values")
    if total == 0:
        return Interval(None, None, None, n, "the baseline's mean is 0")
    ratio = float(first.sum()) / total
    sums = _cluster_sums(np.stack([first, second], axis=1), clusters)
    interval = with_enough_clusters(Interval(ratio, None, None, n), len(sums), unit)
    if interval.reason is not None:
        return interval
    if _may_be_zero(sums[:, 1]):
        return Interval(ratio, None, None, n, "the baseline's mean cannot be told from 0")
    ends = interval_ends(sums, ratio, _resampled_rows(len(sums), seed, resamples))
    if ends is None:
        return Interval(ratio, None, None, n, "the baseline's mean is 0 in some resamples")
    low, high = ends
    return Interval(ratio, float(low), float(high), n)  # NumPy's numbers are no JSON


def clustered_weighted_interval(
    values: Values, weights: Values, clusters: Sequence[Hashable], unit: str, level: float = 0.95
) -> Interval:
    """sum(weights * values) / sum(weights) with its interval, for clusters that weigh unequally.

    Resampling such clusters covers too rarely, since one heavy cluster draws the mean to itself.
    So this is Student's t: squared residuals of clusters are enlarged by what each drew away (as
    CR2 does), and the degrees of freedom are one less than `effective_count` of the clusters.
    None below five clusters.

    Args:
        weights: above 0.
        unit: what a cluster is called where there are too few, such as speaker.

    Source: Bell and McCaffrey (2002), Survey Methodology 28.
    """
    numbers, heavy = _paired(values, weights)
    if len(numbers) == 0:
        return Interval(None, None, None, 0, "no values")
    if heavy.min() <= 0:
        raise ValueError(f"weights must be above 0, got {heavy.min()}")
    sums = _cluster_sums(np.stack([heavy * numbers, heavy], axis=1), clusters)
    mean = float(sums[:, 0].sum() / sums[:, 1].sum())
    if len(sums) < 2:
        return with_enough_clusters(Interval(mean, None, None, len(numbers)), len(sums), unit)
    degrees = max(1.0, effective_count(sums[:, 1]) - 1)
    error = float(standard_error(sums, np.array(mean)))
    reach = error * student_t_quantile(0.5 + level / 2, degrees)
    interval = Interval(mean, mean - reach, mean + reach, len(numbers))
    return with_enough_clusters(interval, len(sums), unit)


def effective_count(weights: Values) -> float:
    """How many equal weights would average as well as these: their number, if they are equal.

    Source: Kish (1965), Survey Sampling, section 11.7.
    """
    numbers = finite(weights, "weights")
    return float(numbers.sum() ** 2 / (numbers**2).sum())


def with_enough_clusters(interval: Interval, clusters: int, unit: str) -> Interval:
    """The interval as it is, or without its ends where fewer than five clusters are behind it."""
    if interval.mean is None or clusters >= FEWEST_CLUSTERS:
        return interval
    reason = f"{clusters} {unit}{'s' * (clusters != 1)}; an interval needs {FEWEST_CLUSTERS}"
    return Interval(interval.mean, None, None, interval.n, reason)


def wilson_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """The share successes / n of independent trials with Wilson's score interval.

    Source: Wilson (1927), Journal of the American Statistical Association 22.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials")
    if n == 0:
        return Interval(None, None, None, 0, "no values")
    share, z = successes / n, NormalDist().inv_cdf(0.5 + level / 2)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2) / (1 + z**2 / n)
    return Interval(share, max(0.0, middle - reach), min(1.0, middle + reach), n)


def finite(values: Values, name: str) -> Floats:
    """Values as an array [n]; ValueError names the first that is NaN or infinite."""
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got shape {numbers.shape}")
    for place, number in enumerate(numbers):
        if not math.isfinite(number):
            raise ValueError(f"{name}[{place}] is {number}; leave it out and count it")
    return numbers


def _ratio(
    numerator: Floats,
    denominator: Floats,
    seed: int,
    resamples: int,
    level: float,
    clusters: Sequence[Hashable] | None,
) -> Interval:
    """sum(numerator) / sum(denominator) over resampled clusters; a mean has denominator 1."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    n = len(numerator)
    if n == 0:
        return Interval(None, None, None, 0, "no values")
    total = float(denominator.sum())
    if total == 0:
        return Interval(None, None, None, n, "the baseline's mean is 0")
    mean = float(numerator.sum()) / total
    sums = _cluster_sums(np.stack([numerator, denominator], axis=1), clusters)
    if len(sums) < 2:
        unit = "value" if clusters is None else "cluster"
        return Interval(mean, None, None, n, f"one {unit} has no spread; two are needed")
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = np.concatenate(
            [drawn[:, 0] / drawn[:, 1] for drawn in _resampled_sums(sums, seed, resamples)]
        )
    if not np.isfinite(draws).all():
        return Interval(mean, None, None, n, "the baseline's mean is 0 in some resamples")
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), n)


def _may_be_zero(sums: Floats) -> bool:
    """Whether a mean of clusters of both signs is not clear of 0: a ratio to it has no bounds."""
    if (sums >= 0).all():
        return False
    n = len(sums)
    reach = student_t_quantile(0.975, n - 1) * sums.std(ddof=1) / math.sqrt(n)
    return bool(abs(sums.mean()) <= reach)


def _cluster_sums(columns: Floats, clusters: Sequence[Hashable] | None) -> Floats:
    """Sum rows [n, k] of the same cluster to [clusters, k], in order of first appearance."""
    if clusters is None:
        return columns
    if len(clusters) != len(columns):
        raise ValueError(f"{len(columns)} values but {len(clusters)} cluster names")
    numbers: dict[Hashable, int] = {}
    which = [numbers.setdefault(name, len(numbers)) for name in clusters]
    sums = np.zeros((len(numbers), columns.shape[1]))
    np.add.at(sums, which, columns)
    return sums


_BLOCK_ENTRIES = 1 << 22


def _resampled_sums(sums: Floats, seed: int, resamples: int) -> Iterator[Floats]:
    """Draw rows [c, k] with replacement, c at a time; yields their sums [block, k]."""
    for rows in _resampled_rows(len(sums), seed, resamples):
        yield np.stack([column[rows].sum(axis=1) for column in sums.T], axis=1)


def _resampled_rows(count: int, seed: int, resamples: int) -> Iterator[npt.NDArray[np.int64]]:
    """Numbers of `count` rows drawn with replacement [block, count].

    Blocks bound the memory: 2,000 resamples of 55,000 clips at once would take a gigabyte.
    """
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_ENTRIES // count)
    for done in range(0, resamples, block):
        yield generator.integers(0, count, size=(min(block, resamples - done), count))


def _paired(values: Values, baseline: Values) -> tuple[Floats, Floats]:
    first, second = finite(values, "values"), finite(baseline, "baseline")
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values cannot be paired with a baseline of {len(second)}")
    return first, second
