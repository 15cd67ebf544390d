"""Draws that are computed place by place: a hash of numbers, and a permutation of any length.

Nothing is kept and nothing runs on: every draw is a pure function of its key, so that a plan can
begin anywhere and any number of workers see the same.
"""

from __future__ import annotations

import math

import numpy as np


def hashed(*values: int | np.ndarray) -> np.ndarray:
    """A uint64 that mixes all values; arrays broadcast. Source: splitmix64, Steele et al. 2014."""
    mixed = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for value in values:
            mixed = mixed + np.asarray(value).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def permuted(places: np.ndarray, count: int, *key: int) -> np.ndarray:
    """Where the permutation of 0 to `count` - 1 that `key` chooses takes `places`; int64 [B].

    A Feistel network on the two digits of a place, whose base is about the square root of
    `count`: in each round a hash of one digit is added to the other. The few places that leave
    the range are sent through again until they are back, which keeps it a permutation. Source:
    cycle walking, Black and Rogaway 2002.
    """
    base = math.isqrt(count - 1) + 1
    bases = np.uint64(-(-count // base)), np.uint64(base)
    round_keys = hashed(*key, count, np.arange(_ROUNDS))
    moved = np.asarray(places).astype(np.uint64)
    outside = np.ones(moved.shape, bool)
    while outside.any():
        moved[outside] = _through_the_rounds(moved[outside], bases, round_keys)
        outside = moved >= count
    return moved.astype(np.int64)


_ROUNDS = 6


def _through_the_rounds(
    places: np.ndarray, bases: tuple[np.uint64, np.uint64], round_keys: np.ndarray
) -> np.ndarray:
    digits = [*np.divmod(places, bases[1])]
    for number, round_key in enumerate(round_keys):
        moving = number % 2
        added = hashed(round_key + digits[1 - moving]) % bases[moving]
        digits[moving] = (digits[moving] + added) % bases[moving]
    return digits[0] * bases[1] + digits[1]
