"""Intervals of shares of right answers that do not collapse near 0 and 1.

Where all of eight words are right, resampling them finds no spread, and an interval from 1 to 1
claims a certainty that eight words cannot give. These intervals are Clopper and Pearson's, for as
many independent answers as the clusters are worth: never fewer than there are clusters, never more
than there are values.

Sources: Clopper and Pearson (1934), Biometrika 26; Korn and Graubard (1998), Survey Methodology 24
(clusters); Zou and Donner (2008), Statistics in Medicine 27 (differences).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ttt.statistics.intervals import (
    Floats,
    Interval,
    Values,
    effective_count,
    finite,
    with_enough_clusters,
)
from ttt.statistics.studentized import beta_quantile

Weighing = Literal["clusters", "values"]
"""What counts once: every cluster (a word, whatever its voices) or every value (a pair)."""


def accuracy_interval(
    outcomes: Values, clusters: Sequence[Hashable], weighing: Weighing, unit: str
) -> Interval:
    """The share of right `outcomes` (0 to 1; a tie is a half) with its 95 % interval.

    None below five clusters. `n` counts what counts once.

    Args:
        unit: what a cluster is called where there are too few, such as word.
    """
    values = finite(outcomes, "outcomes")
    _require_between(values, 0.0)
    if not len(values):
        return Interval(None, None, None, 0, "no values")
    sizes, (means,) = _by_cluster([values], clusters)
    share = _estimate(means, sizes, weighing)
    n = len(sizes) if weighing == "clusters" else len(values)
    interval = with_enough_clusters(Interval(share.mean, None, None, n), len(sizes), unit)
    if interval.reason is not None:
        return interval
    return Interval(share.mean, *share.ends(), n)


def crossed_accuracy_interval(
    outcomes: Values,
    rows: Sequence[Hashable],
    columns: Sequence[Hashable],
    units: tuple[str, str],
) -> Interval:
    """The share of right `outcomes` (0 to 1; a tie is a half) where each belongs to two clusters.

    Such as a listener's answers about clips that all hear: who answers and what is heard both
    make answers alike. The variances by rows and by columns are added and that of single answers,
    which is in both, is taken off; the answers are worth no fewer than there are clusters of the
    fewer kind. Every answer counts once. None below five clusters of either kind.

    Args:
        units: what a row and a column are called where there are too few, such as listener, clip.

    Source: Cameron, Gelbach and Miller (2011), Journal of Business and Economic Statistics 29.
    """
    values = finite(outcomes, "outcomes")
    _require_between(values, 0.0)
    if not len(values):
        return Interval(None, None, None, 0, "no values")
    n, shares, fewest = len(values), [], math.inf
    for clusters, unit in zip((rows, columns), units, strict=True):
        sizes, (means,) = _by_cluster([values], clusters)
        shares.append(_estimate(means, sizes, "values"))
        fewest = min(fewest, effective_count(sizes))
        interval = with_enough_clusters(Interval(shares[-1].mean, None, None, n), len(sizes), unit)
        if interval.reason is not None:
            return interval
    variance = sum(1 / share.answers for share in shares) - 1 / n
    share = _Share(shares[0].mean, min(max(1 / variance, fewest), n))
    return Interval(share.mean, *share.ends(), n)


def accuracy_difference_interval(
    differences: Values, clusters: Sequence[Hashable], unit: str
) -> Interval:
    """The mean over clusters of paired `differences` of outcomes (-1 to 1) with its 95 % interval.

    What is gained and what is lost are two shares that exclude each other; their intervals are
    put together. None below five clusters.
    """
    values = finite(differences, "differences")
    _require_between(values, -1.0)
    if not len(values):
        return Interval(None, None, None, 0, "no values")
    sizes, changes = _by_cluster([np.maximum(values, 0), np.maximum(-values, 0)], clusters)
    gained, lost = (_estimate(means, sizes, "clusters") for means in changes)
    difference = gained.mean - lost.mean
    interval = with_enough_clusters(Interval(difference, None, None, len(sizes)), len(sizes), unit)
    if interval.reason is not None:
        return interval
    (gained_low, gained_high), (lost_low, lost_high) = gained.ends(), lost.ends()
    rest = (1 - gained.mean) * (1 - lost.mean)
    # How far one of two shares of a whole takes from the other; wholly where all is one of them.
    together = min(1.0, math.sqrt(gained.mean * lost.mean / rest)) if rest > 0 else 1.0
    low = _reach(gained.mean - gained_low, lost_high - lost.mean, together)
    high = _reach(gained_high - gained.mean, lost.mean - lost_low, together)
    ends = max(-1.0, difference - low), min(1.0, difference + high)
    return Interval(difference, *ends, len(sizes))


@dataclass(frozen=True)
class _Share:
    mean: float
    answers: float
    """How many independent answers it is worth."""

    def ends(self) -> tuple[float, float]:
        """Clopper and Pearson's, for right answers that need not be whole."""
        right = self.mean * self.answers
        wrong = self.answers - right
        low = 0.0 if self.mean <= 0 else beta_quantile(0.025, right, wrong + 1)
        high = 1.0 if self.mean >= 1 else beta_quantile(0.975, right + 1, wrong)
        return low, high


def _estimate(means: Floats, sizes: Floats, weighing: Weighing) -> _Share:
    """The weighted mean of clusters' means [c], and what it is worth.

    Its variance is that between clusters and that of one more, as heavy as the heaviest, which is
    wholly right or wrong: without it clusters that happen to agree would pass for certainty.
    """
    counts = np.ones_like(sizes) if weighing == "clusters" else sizes
    mean = float(counts @ means / counts.sum())
    weights = counts / counts.sum()
    concentration = float((weights**2).sum())
    fewest, most = 1 / concentration, 1 / float((weights**2 / sizes).sum())
    if mean in (0, 1):
        return _Share(mean, fewest)
    drawn = (mean * fewest + 0.5) / (fewest + 1)
    variance = float((weights**2 * (means - mean) ** 2).sum())
    variance += float(weights.max()) ** 2 * drawn * (1 - drawn)
    return _Share(mean, min(max(mean * (1 - mean) / variance, fewest), most))


def _by_cluster(
    columns: Sequence[Floats], clusters: Sequence[Hashable]
) -> tuple[Floats, list[Floats]]:
    """Every cluster's size [c], and the mean of each column over it [c]."""
    if len(clusters) != len(columns[0]):
        raise ValueError(f"{len(columns[0])} values but {len(clusters)} cluster names")
    numbers: dict[Hashable, int] = {}
    which = np.array([numbers.setdefault(name, len(numbers)) for name in clusters])
    sizes = np.bincount(which).astype(np.float64)
    return sizes, [np.bincount(which, weights=column) / sizes for column in columns]


def _reach(one: float, other: float, together: float) -> float:
    return math.sqrt(one**2 + other**2 + 2 * together * one * other)


def _require_between(values: Floats, least: float) -> None:
    if len(values) and not (values.min() >= least and values.max() <= 1):
        raise ValueError(f"outcomes must lie between {least:g} and 1")
