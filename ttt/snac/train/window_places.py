"""Where windows lie in their clips, and how much of them the loss may count.

A window is a core of whole coarsest tokens, on which the loss is counted, and the slice of codes
that is decoded for it: `context_coarse` more tokens on both sides. All slices of a micro-batch
are equally long. Near a clip's end the slice shifts inward, so that the decoder's edge there is
the clip's own; a clip shorter than the slice is padded on the right. `valid_samples` says how
many samples of the core, from its start, may enter the loss: neither those past the clip's real
end nor those that the padding can reach through the decoder's receptive field.

Shapes: B = windows of a micro-batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ttt.snac.geometry import CodeGeometry


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of one micro-batch; positions in coarsest tokens, all arrays int64 [B]."""

    rows: np.ndarray
    """Rows of the cache's catalogue."""
    slice_start: np.ndarray
    """Where the slice starts in the clip."""
    core_start: np.ndarray
    """Where the core starts in the slice."""
    valid_samples: np.ndarray
    """48 kHz samples from the core's start that may enter the loss; 0 for a clip too short."""
    nth: np.ndarray
    """Which of its clip's windows each is, from 0."""
    core_coarse: int
    slice_coarse: int

    def __len__(self) -> int:
        return len(self.rows)

    def chosen(self, index: np.ndarray) -> Windows:
        """Some of them."""
        return Windows(
            rows=self.rows[index],
            slice_start=self.slice_start[index],
            core_start=self.core_start[index],
            valid_samples=self.valid_samples[index],
            nth=self.nth[index],
            core_coarse=self.core_coarse,
            slice_coarse=self.slice_coarse,
        )


@dataclass(frozen=True, eq=False)
class ClipPlaces:
    """The clips of a cache, and where windows of them lie."""

    n_coarse: np.ndarray
    n_samples: np.ndarray
    geometry: CodeGeometry
    reach_samples_48k: int

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Coarsest tokens of clips, int64 [B]."""
        return self.n_coarse[rows].astype(np.int64)

    def windows(
        self,
        rows: np.ndarray,
        core_at: np.ndarray,
        nth: np.ndarray,
        core_coarse: int,
        slice_coarse: int,
    ) -> Windows:
        """Slices around cores that start at `core_at` in their clips; arrays int64 [B]."""
        context_coarse = (slice_coarse - core_coarse) // 2
        last_start = np.maximum(self.lengths(rows) - slice_coarse, 0)
        slice_start = np.clip(core_at - context_coarse, 0, last_start)
        return Windows(
            rows=rows,
            slice_start=slice_start,
            core_start=core_at - slice_start,
            valid_samples=self.valid_samples(rows, core_at, core_coarse, slice_coarse),
            nth=nth,
            core_coarse=core_coarse,
            slice_coarse=slice_coarse,
        )

    def valid_samples(
        self,
        rows: np.ndarray,
        core_at: np.ndarray,
        core_coarse: int | np.ndarray,
        slice_coarse: int,
    ) -> np.ndarray:
        """Samples of cores that may enter the loss, int64 [B]."""
        n_coarse = self.lengths(rows)
        clip_end = self.geometry.samples_48k(n_coarse)
        clean_end = np.where(n_coarse < slice_coarse, clip_end - self.reach_samples_48k, clip_end)
        real_end = np.minimum(self.n_samples[rows].astype(np.int64), clean_end)
        from_core = real_end - self.geometry.samples_48k(core_at)
        return np.clip(from_core, 0, self.geometry.samples_48k(np.asarray(core_coarse)))


def windows_in(n_coarse: np.ndarray, core_coarse: int) -> np.ndarray:
    """Whole cores that fit into clips; one for a clip shorter than that, which is padded."""
    return np.maximum(n_coarse // core_coarse, 1)


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
