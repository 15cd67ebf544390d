"""Quantiles of the beta and of Student's t distribution, without SciPy.

Sources: Press et al. (2007), Numerical Recipes, 6.4 (the continued fraction of the incomplete beta
function); Abramowitz and Stegun (1964), Handbook of Mathematical Functions, 26.5.27 (t from beta).
"""

from __future__ import annotations

import functools
import math

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
