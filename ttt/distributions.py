"""Quantiles of distributions that intervals need, without SciPy.

Source: Abramowitz and Stegun (1964), Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
"""

from __future__ import annotations

import functools
import math


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
