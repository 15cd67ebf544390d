"""Tests for paired differences, and what many of them together may claim.

Sources: Wilcoxon (1945), Biometrics Bulletin 1; Holm (1979), Scandinavian Journal of Statistics 6.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ttt.statistics.intervals import FEWEST_CLUSTERS

_EXACT_UP_TO = 50


def cluster_means(
    values: Iterable[float], clusters: Sequence[str]
) -> tuple[list[float], list[str]]:
    """The mean over each cluster's values [n] that are not NaN, and the clusters' names."""
    grouped: dict[str, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        if not math.isnan(value):
            grouped[cluster].append(value)
    return [float(np.mean(group)) for group in grouped.values()], list(grouped)


def paired_test(differences: Sequence[float]) -> dict[str, float | None]:
    """`p_wilcoxon` of one difference per cluster, and `p_least`, below which it cannot come.

    Both are None below five clusters.
    """
    if len(differences) < FEWEST_CLUSTERS:
        return {"p_wilcoxon": None, "p_least": None}
    return {
        "p_wilcoxon": wilcoxon_signed_rank(differences),
        "p_least": least_wilcoxon(differences),
    }


def adjust_for_many(rows: Iterable[dict[str, Any]]) -> None:
    """Give all rows of a table, as `paired_test` made them, `p_holm` and `p_holm_least`.

    The latter is the adjusted p if every row's were as small as it can be: no result of as many
    clusters could be smaller.
    """
    rows = list(rows)
    for name, adjusted in (("p_wilcoxon", "p_holm"), ("p_least", "p_holm_least")):
        for row, p in zip(rows, holm([row[name] for row in rows]), strict=True):
            row[adjusted] = p


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


def least_wilcoxon(differences: Sequence[float]) -> float:
    """The p-value of as many differences that are not 0, if all had the same sign."""
    return min(1.0, 2 * 0.5 ** sum(difference != 0 for difference in differences))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted so that all together err with the chance one alone would; None stays."""
    there = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(there):
        largest = max(largest, min(1.0, p * (len(there) - rank)))
        adjusted[place] = largest
    return adjusted


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
