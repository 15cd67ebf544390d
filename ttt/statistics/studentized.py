"""The ends of an interval for a ratio of sums over few clusters: bootstrap-t beside Student's t.

A mean is the ratio to a column of ones. Clusters come as their sums [c, 2], numerator and
denominator.

Sources: Bell and McCaffrey (2002), Survey Methodology 28 (CR2 and its degrees of freedom);
Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 12.5 (bootstrap-t).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ttt.statistics.distributions import student_t_quantile

Floats = npt.NDArray[np.float64]

BOOTSTRAP_UP_TO = 1000
"""Clusters beyond which their skew no longer moves the ends, and resampling them takes long."""
_FARTHEST = 3.0
"""How far, in reaches of Student's t, an end may lie that the bootstrap-t asks for."""
_LEAST_REST = 0.05


def interval_ends(
    sums: Floats, ratio: float, resampled: Iterable[npt.NDArray[np.int64]]
) -> tuple[float, float] | None:
    """Both ends of the 95 % interval; None where a resampled denominator is 0.

    Args:
        resampled: numbers of clusters drawn with replacement [some, c], read up to
            BOOTSTRAP_UP_TO clusters.
    """
    spread = float(standard_error(sums, np.array(ratio)))
    reach = student_t_quantile(0.975, degrees_of_freedom(sums[:, 1])) * spread
    farthest = max(reach, _FARTHEST * student_t_quantile(0.975, len(sums) - 1) * spread)
    below = above = reach
    if len(sums) <= BOOTSTRAP_UP_TO and spread > 0:
        draws = _studentized(sums, ratio, spread, resampled)
        if draws is None:
            return None
        # Resampled t are still a little too narrow at 95 % for few skewed clusters.
        level = 0.95 + 0.01 * min(1.0, 20 / len(sums))
        place = int((1 - level) / 2 * (len(draws) - 1))
        # What is drawn too high says that ours may be too high, and so how far to reach down.
        below, above = spread * draws[len(draws) - 1 - place], -spread * draws[place]
    positive = bool((sums >= 0).all()) and ratio > 0
    if positive:
        above = max(above, ratio * math.expm1(min(reach / ratio, 50.0)))
    low, high = (min(max(end, reach), farthest) for end in (below, above))
    return max(ratio - low, 0.0 if positive else -math.inf), ratio + high


def standard_error(sums: Floats, ratio: Floats) -> Floats:
    """The standard error of `ratio` [...] over clusters [..., c, 2]; each one's share corrected.

    A cluster draws the ratio to itself as far as it weighs (Bell and McCaffrey's CR2).
    """
    numerator, denominator = sums[..., 0], sums[..., 1]
    total = denominator.sum(axis=-1)
    rest = np.maximum(1 - denominator / total[..., None], _LEAST_REST)
    residual = numerator - ratio[..., None] * denominator
    return np.sqrt((residual**2 / rest).sum(axis=-1)) / np.abs(total)


def degrees_of_freedom(weights: Floats) -> float:
    """Degrees of freedom of `standard_error` of clusters that weigh [c]; c - 1 if all alike.

    Satterthwaite's, as Bell and McCaffrey have them, for clusters known as well as they weigh.
    """
    if (weights < 0).any():
        return len(weights) - 1
    share = weights / weights.sum()
    pulled = share**2 / np.maximum(1 - share, _LEAST_REST)
    return 1 / float((share**2).sum() + pulled.sum() ** 2 - (pulled**2).sum())


def _studentized(
    sums: Floats, ratio: float, spread: float, resampled: Iterable[npt.NDArray[np.int64]]
) -> Floats | None:
    """How many of their own standard errors resampled ratios lie from `ratio`, in order.

    Infinitely many where a resample has no spread of its own. None where a baseline is 0.
    """
    draws = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for rows in resampled:
            drawn = sums[rows]
            total = drawn.sum(axis=1)
            if (total[:, 1] == 0).any():
                return None
            ratios = total[:, 0] / total[:, 1]
            spreads = standard_error(drawn, ratios)
            spreads[spreads < 1e-9 * spread] = 0.0
            away = ratios - ratio
            draws.append(np.where(away == 0, 0.0, away / spreads))
    return np.sort(np.concatenate(draws))
