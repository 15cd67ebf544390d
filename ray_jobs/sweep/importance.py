"""How much each setting of a sweep mattered.

A setting's values are put into groups (the thirds of its numbers, and each other value), and the
share of the variance of the losses' ranks that lies between the groups is its importance: 0 says
that the groups are alike, 1 that they do not mix. It sees a best value in the middle of a range,
which a correlation does not, and nothing of how settings act together.

Source: Kruskal and Wallis, Use of Ranks in One-Criterion Variance Analysis (1952); the share is
their H divided by n - 1, and by chance it is (groups - 1) / (n - 1).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEAST_TRIALS = 10
"""With fewer, the share is mostly chance."""


@dataclass(frozen=True)
class Importance:
    """What a setting has to do with the loss."""

    share: float | None
    """Of the variance of the losses' ranks; None when it is undefined."""
    chance: float | None
    """The share that a setting without any effect has on average."""
    n: int
    """Trials."""
    reason: str | None = None
    """Why there is no share."""


def importance(
    losses: Sequence[float], settings: Mapping[str, Sequence[Hashable]]
) -> dict[str, Importance]:
    """Setting -> its importance over trials with `losses` [n]; each setting has a value per trial.

    Numbers (not true and false) of more than three values are cut into thirds; any other value,
    such as "null", is a group of its own. Raises ValueError when lengths differ.
    """
    return {name: _importance(losses, values) for name, values in settings.items()}


def _importance(losses: Sequence[float], values: Sequence[Hashable]) -> Importance:
    n = len(losses)
    if len(values) != n:
        raise ValueError(f"{n} losses cannot be paired with {len(values)} values")
    if n < LEAST_TRIALS:
        return Importance(None, None, n, f"{n} trials are too few; {LEAST_TRIALS} are needed")
    groups = _groups(values)
    count = len(set(groups))
    if count < 2:
        return Importance(None, None, n, "all trials have the same value")
    if count == n:
        return Importance(None, None, n, "no two trials have the same value")
    ranks = _ranks(np.asarray(losses, dtype=np.float64))
    deviations = ranks - ranks.mean()
    total = float((deviations**2).sum())
    if total == 0:
        return Importance(None, None, n, "all trials have the same loss")
    between = 0.0
    for group in set(groups):
        members = deviations[[other == group for other in groups]]
        between += float(members.sum()) ** 2 / len(members)
    return Importance(between / total, (count - 1) / (n - 1), n)


def _groups(values: Sequence[Hashable]) -> Sequence[Hashable]:
    numbers = {
        place: value
        for place, value in enumerate(values)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    if len(set(numbers.values())) <= 3:
        return values
    ranks = _ranks(np.array(list(numbers.values()), dtype=np.float64))
    thirds = np.minimum((3 * (ranks - 0.5) / len(numbers)).astype(np.int64), 2).tolist()
    third = dict(zip(numbers, thirds, strict=True))
    return [("third", third[at]) if at in third else value for at, value in enumerate(values)]


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 1 [n]; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
