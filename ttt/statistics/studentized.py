"""The ends of an interval for a ratio of sums over few clusters: bootstrap-t beside Student's t.

The quantiles of the beta and of Student's t distribution are computed here, without SciPy.

A mean is the ratio to a column of ones. Clusters come as their sums [c, 2], numerator and
denominator.

Sources: Bell and McCaffrey (2002), Survey Methodology 28 (CR2 and its degrees of freedom);
Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 12.5 (bootstrap-t);
Press et al. (2007), Numerical Recipes, 6.4 (the continued fraction of the incomplete beta
function); Abramowitz and Stegun (1964), Handbook of Mathematical Functions, 26.5.27 (t from beta).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

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


_STEPS = 2000
_SMALLEST = 1e-300


@functools.cache  # A run asks for the same few again and again.
def student_t_quantile(share: float, degrees: float) -> float:
    """The value below which Student's t lies with the chance `share` (from 0.5 to below 1).

    Degrees of freedom need not be whole.
    """
    if not 0.5 <= share < 1 or not 0 < degrees < math.inf:
        raise ValueError(f"share {share} of t with {degrees} degrees of freedom; see the docstring")
    part = beta_quantile(2 * share - 1, 0.5, degrees / 2)  # t^2 / (degrees + t^2).
    if part < 0.5:
        return math.sqrt(degrees * part / (1 - part))
    rest = beta_quantile(2 - 2 * share, degrees / 2, 0.5)  # Of 1 - part too few digits are left.
    return math.sqrt(degrees * (1 - rest) / rest)


def beta_quantile(share: float, a: float, b: float) -> float:
    """The value below which a beta(a, b) variable lies with the chance `share` (0 to below 1).

    Newton's steps within a bracket that shrinks with each of them.
    """
    if not 0 <= share < 1 or min(a, b) <= 0:
        raise ValueError(f"share {share} of beta({a}, {b}); see the docstring")
    if share == 0:
        return 0.0
    low, high, x = 0.0, 1.0, a / (a + b)
    for _ in range(_STEPS):
        excess = beta_share(x, a, b) - share
        low, high = (low, x) if excess > 0 else (x, high)
        density = math.exp((a - 1) * math.log(x) + (b - 1) * math.log1p(-x) - _log_beta(a, b))
        following = x - excess / density if density > _SMALLEST else -1.0
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - x) <= 1e-13 * x or following in (low, high):
            return following
        x = following
    raise AssertionError(f"the quantile {share} of beta({a}, {b}) was not found")


def beta_share(x: float, a: float, b: float) -> float:
    """The chance that a beta(a, b) variable lies below x (the regularised incomplete beta)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - _log_beta(a, b))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction, by Lentz's method."""
    numerator, denominator = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    value = denominator
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = value
        for term in (even, odd):
            denominator = 1 / _away(1 + term * denominator)
            numerator = _away(1 + term / numerator)
            value *= denominator * numerator
        if abs(value - before) <= 1e-15 * abs(value):
            return value
    raise AssertionError(f"the incomplete beta function of {x}, {a}, {b} does not converge")


def _away(value: float) -> float:
    """Not quite 0, which nothing can be divided by."""
    return value if abs(value) > _SMALLEST else _SMALLEST
