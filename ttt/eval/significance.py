"""Tests for paired differences, what many of them together may claim, and few clusters' intervals.

Sources: Wilcoxon (1945), Biometrics Bulletin 1; Holm (1979), Scandinavian Journal of Statistics 6;
Hesterberg (2015), The American Statistician 69, section 3.4.2 (expanded percentile intervals);
Abramowitz and Stegun (1964), 26.7.3 and 26.7.4 (Student's t).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from ttt.stats import Interval, bootstrap_interval

FEWEST_CLUSTERS = 5
_EXACT_UP_TO = 50


def wilcoxon_signed_rank(differences: Sequence[float]) -> float:
    """Two-sided p-value that paired differences are symmetric about 0.

    Zeros are left out, equal sizes share their mean rank. Up to 50 differences the p-value is
    exact, with ties too; beyond that it is the normal approximation with Wilcoxon's correction
    for ties. 1 when nothing differs. Raises ValueError for NaN or infinite differences.
    """
    given = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(given).all():
        raise ValueError("differences must be finite; leave the others out and count them")
    kept = given[given != 0]
    if len(kept) == 0:
        return 1.0
    doubled, counts = _doubled_ranks(np.abs(kept))
    positive = int(doubled[kept > 0].sum())
    smaller = min(positive, int(doubled.sum()) - positive)
    if len(kept) <= _EXACT_UP_TO:
        return min(1.0, 2 * _share_at_most(smaller, doubled))
    n = len(kept)
    variance = n * (n + 1) * (2 * n + 1) / 24 - float((counts**3 - counts).sum()) / 48
    z = (smaller / 2 - n * (n + 1) / 4) / math.sqrt(variance)
    return min(1.0, math.erfc(-z / math.sqrt(2)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted so that all together err with the chance one alone would; None stays."""
    there = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(there):
        largest = max(largest, min(1.0, p * (len(there) - rank)))
        adjusted[place] = largest
    return adjusted


def expanded_level(clusters: int, level: float = 0.95) -> float:
    """The level at which a percentile bootstrap of a mean over few clusters covers `level`.

    Resampling n clusters understates their spread by sqrt((n - 1) / n) and takes the normal
    distribution for Student's t: at a nominal 95 %, five clusters cover 83 %.
    """
    if clusters < 2:
        raise ValueError(f"{clusters} clusters have no spread; two are needed")
    reach = student_t_quantile(0.5 + level / 2, clusters - 1) * math.sqrt(clusters / (clusters - 1))
    return math.erf(reach / math.sqrt(2))


def clustered_interval(
    values: Sequence[float], clusters: Sequence[Hashable], seed: int, resamples: int, unit: str
) -> Interval:
    """The mean of values with its 95 % interval, whole clusters resampled; none below five.

    Args:
        unit: what a cluster is called where there are too few, such as speaker.
    """
    level = expanded_level(max(FEWEST_CLUSTERS, len(set(clusters))))
    interval = bootstrap_interval(values, seed, resamples, level, clusters)
    return with_enough_clusters(interval, len(set(clusters)), unit)


def with_enough_clusters(interval: Interval, clusters: int, unit: str) -> Interval:
    """The interval as it is, or without its ends where fewer than five clusters are behind it."""
    if interval.mean is None or clusters >= FEWEST_CLUSTERS:
        return interval
    reason = f"{clusters} {unit}{'s' * (clusters != 1)}; an interval needs {FEWEST_CLUSTERS}"
    return Interval(interval.mean, None, None, interval.n, reason)


@functools.cache  # Slow for many degrees, and a run asks for the same few again and again.
def student_t_quantile(share: float, degrees: int) -> float:
    """The value below which Student's t lies with the chance `share` (from 0.5 to below 1)."""
    if not 0.5 <= share < 1 or degrees < 1:
        raise ValueError(f"share {share} of t with {degrees} degrees of freedom; see the docstring")
    low, high = 0.0, 1.0
    while _within(high, degrees) < 2 * share - 1:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < 2 * share - 1 else (low, middle)
    return high


def _within(t: float, degrees: int) -> float:
    """The chance that Student's t lies within -t and t."""
    angle = math.atan(t / math.sqrt(degrees))
    square, odd = math.cos(angle) ** 2, degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= square * (k - 1) / k
        total += term
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total


def _doubled_ranks(sizes: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray]:
    """Twice the mean rank of each size (a whole number), and how often each size occurs."""
    _, which, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (2 * last - counts + 1)[which], counts


def _share_at_most(limit: int, doubled: npt.NDArray[np.int64]) -> float:
    """The share of all 2^n signs whose positive ranks sum to `limit` or less."""
    shares = np.zeros(limit + 1)
    shares[0] = 1.0
    for rank in doubled:
        shifted = np.zeros_like(shares)
        shifted[rank:] = shares[: max(0, len(shares) - rank)]
        shares = (shares + shifted) / 2
    return float(shares.sum())
