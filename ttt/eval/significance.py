"""Tests for paired differences, and what many of them together may claim.

Sources: Wilcoxon (1945), Biometrics Bulletin 1; Holm (1979), Scandinavian Journal of Statistics 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ttt.stats import FEWEST_CLUSTERS, clustered_interval, expanded_level, student_t_quantile

# What comes from ttt.stats stood here once, and programs import it from here.
__all__ = [
    "FEWEST_CLUSTERS",
    "clustered_interval",
    "expanded_level",
    "holm",
    "student_t_quantile",
    "wilcoxon_signed_rank",
]

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
