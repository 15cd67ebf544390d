"""Slopes of many chapters as one: weighted by what each knows, and none too much.

A slope fitted to n frames has a variance that falls as 1 / n^3 (`information` is its inverse, up
to the noise that all chapters share), so that a chapter just beyond the window says a millionth of
what a long one says. Weights that follow this alone are the best ones while nothing but noise
separates slopes. Speakers have slopes of their own, too, and then equal weights are the best. So
chapters of a speaker weigh by their information, and no speaker more than twice the mean of all
speakers: whatever separates slopes, the speakers are worth at least half of their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ttt.statistics.intervals import Interval, clustered_weighted_interval, effective_count

Floats = npt.NDArray[np.float64]

WEIGHTING = "information, a speaker at most twice the mean speaker"
"""What summaries call these weights."""
_MOST = 2.0
_HALVINGS = 60


def slope_interval(
    slopes: Sequence[float], information: Sequence[float], speakers: Sequence[str]
) -> dict[str, Any]:
    """The weighted mean of slopes and its 95 % interval by speaker, ready for JSON.

    `effective_speakers` says how many equally heavy speakers would average as well.
    """
    if not slopes:
        nothing = Interval(None, None, None, 0, "no chapter is long enough")
        return {**nothing.to_dict(), "weighting": WEIGHTING, "effective_speakers": None}
    weights = slope_weights(information, speakers)
    interval = clustered_weighted_interval(slopes, weights, speakers, "speaker")
    effective = effective_count(_by_speaker(weights, speakers)[0])
    return {**interval.to_dict(), "weighting": WEIGHTING, "effective_speakers": effective}


def slope_weights(information: Sequence[float], speakers: Sequence[str]) -> Floats:
    """A weight per chapter [n], their sum 1; see above."""
    weights = np.asarray(information, dtype=np.float64)
    totals, which = _by_speaker(weights, speakers)
    weights = weights * (np.minimum(1.0, _limit(totals) / totals))[which]
    return weights / weights.sum()


def speaker_slopes(
    slopes: Sequence[float], information: Sequence[float], speakers: Sequence[str]
) -> list[float]:
    """Each speaker's mean slope, chapters weighted by their information."""
    weights = np.asarray(information, dtype=np.float64)
    totals, _ = _by_speaker(weights, speakers)
    sums, _ = _by_speaker(weights * np.asarray(slopes), speakers)
    return (sums / totals).tolist()


def _limit(totals: Floats) -> float:
    """The largest weight that is at most twice the mean of all after they are cut to it."""
    low, high = float(totals.min()), float(totals.max())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle <= _MOST * np.minimum(totals, middle).mean():
            low = middle
        else:
            high = middle
    return high if high <= _MOST * np.minimum(totals, high).mean() else low


def _by_speaker(values: Floats, speakers: Sequence[str]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Sums by speaker in order of first appearance, and which sum each value is in."""
    numbers: dict[str, int] = {}
    which = np.array([numbers.setdefault(name, len(numbers)) for name in speakers], dtype=np.int64)
    return np.bincount(which, values, len(numbers)).astype(np.float64), which
