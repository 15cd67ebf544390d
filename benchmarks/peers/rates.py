"""Windows per second, warm and cold, and the bytes behind them, in alternating rounds.

Ray and its workers run before an epoch is timed, a DataLoader's workers start inside it. So whole
epochs and first batches do not compare; what follows the first batch does.
"""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import asdict
from typing import Any

from benchmarks.peers.driver import Child
from benchmarks.peers.loaders.protocol import Order

Readings = dict[str, list[dict[str, Any]]]


def rounds_of(children: dict[str, Child], rounds: int, repeats: int, *, cold: bool) -> Readings:
    """What each round of each way found; a round begins with another way than the one before."""
    readings: Readings = {name: [] for name in children}
    names = list(children)
    for number in range(rounds):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            kind = "cold" if cold else "warm"
            print(f"{kind} round {number + 1} of {rounds}: {name}", file=sys.stderr)
            order = Order(seed=number, repeats=repeats)
            readings[name].append(children[name].ask("rate", order=asdict(order), cold=cold))
    return readings


def speeds(readings: Readings, name: str) -> list[float]:
    """Windows per second of each round, the epoch's start included."""
    return [each["windows"] / each["seconds"] for each in readings[name]]


def speeds_after_start(readings: Readings, name: str) -> list[float]:
    """Windows per second of each round from the first batch on; NaN where there was only one."""
    return [
        (each["windows"] - each["first_windows"]) / (each["seconds"] - each["first"])
        if each["windows"] > each["first_windows"]
        else math.nan
        for each in readings[name]
    ]


def ratios(readings: Readings, name: str, to: str) -> list[float]:
    """How many times as fast as another way, round by round.

    The other's from its first batch on, `name`'s whole epoch: Ray reads so far ahead that much of
    an epoch is there when its first batch comes, which would flatter it.
    """
    pairs = zip(speeds(readings, name), speeds_after_start(readings, to), strict=True)
    return [mine / other for mine, other in pairs]


def per_window(readings: Readings, name: str, what: str) -> float | None:
    """The median of a count per window over the rounds that have one; None if none has."""
    counted = [each for each in readings[name] if each[what] is not None]
    if not counted:
        return None
    return statistics.median(each[what] / each["windows"] for each in counted)


def spread(values: list[float]) -> dict[str, Any]:
    """The median and the range of a few rounds."""
    return {"median": statistics.median(values), "range": [min(values), max(values)]}
