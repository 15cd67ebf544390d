"""The levels of a noise floor, fitted on what decoders make of clips they were not trained on.

LSD-HF is a mean over frames of a root over bins, so bands do not add up in it. But a root lies
below its tangents: with each frame weighted by one over its distance at the levels so far, the
bands part, and the best level of each cannot raise the mean. That is repeated until no level
moves: first in steps of 4 dB over the whole range, then of 1 dB around what was found.

In the fit a band's noise ends at the band's edge. What the real filter does is measured at the
end, on the same windows: a floor that does not lower their mean LSD-HF is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ttt.numerics import exact_float32
from ttt.snac.geometry import TARGET_RATE
from ttt.snac.metrics import (
    CUTOFF_HZ,
    ENVELOPE_BANDS,
    FRAME,
    log_power,
    lsd_bands,
    spectrum,
)
from ttt.snac.model import Decoder48k, deterministic
from ttt.snac.noise_floor import FloorOrigin, NoiseFloor, floor_band, white_noise
from ttt.snac.train.step import decode_windows
from ttt.snac.train.validation import SHORTEST_SAMPLES, ValidationSet

LOWEST_DB, HIGHEST_DB = -116, -20
"""Below the first, noise is under the floor of every spectrum here; above the last, no floor."""
_COARSE_DB, _REFINING_DB = 4, range(-4, 5)


@dataclass(frozen=True, eq=False)
class HeardWindow:
    """What a decoder made of a window of a clip it was not trained on; 48 kHz, [T] each."""

    ours: Tensor
    truth: Tensor


@dataclass(frozen=True)
class FloorFit:
    """What a fit found."""

    floor: NoiseFloor | None
    """None where none lowers the mean LSD-HF."""
    windows: int
    lsd_hf_without: float
    lsd_hf_with: float
    """With the best levels, be they taken or not."""

    @property
    def sentence(self) -> str:
        """For the user."""
        found = f"LSD-HF {self.lsd_hf_without:.3f} without, {self.lsd_hf_with:.3f} with it"
        where = f"on {self.windows} windows of clips that were kept out of training"
        if self.floor is None:
            return f"no noise floor: none lowers LSD-HF ({found}) {where}"
        return f"noise floor of {self.floor.words}: {found}, {where}"


def hear_windows(decoder: Decoder48k, batches: ValidationSet) -> Iterator[HeardWindow]:
    """Every window that is long enough to be measured, as `decoder` decodes it; on the CPU."""
    for index in range(len(batches)):
        with torch.no_grad(), deterministic(decoder), exact_float32():
            windows = decode_windows(decoder, batches[index], "float32")
        for row, samples in enumerate(windows.valid_samples.tolist()):
            if samples >= SHORTEST_SAMPLES:
                ours, truth = windows.estimate[row, :samples], windows.target[row, :samples]
                yield HeardWindow(ours.cpu(), truth.cpu())


def fit_floor(heard: Sequence[HeardWindow], *, seed: int = 0, folds: int = 0) -> FloorFit | None:
    """The levels with the lowest mean LSD-HF over the windows, each of which counts alike.

    Follows from the arguments alone; `seed` is of the floor's noise, `folds` is noted. None where
    there is nothing to fit: no window, or numbers that are none.
    """
    without = _mean_lsd_hf(heard, None)
    if not math.isfinite(without):
        return None
    whole_range = [float(level) for level in range(LOWEST_DB, HIGHEST_DB + 1, _COARSE_DB)]
    levels = _descend(heard, (None,) * ENVELOPE_BANDS, seed, lambda _: whole_range)
    levels = _descend(heard, levels, seed, _around)
    if not any(level is not None for level in levels):
        return FloorFit(None, len(heard), without, without)
    floor = NoiseFloor(levels, seed)
    with_floor = _mean_lsd_hf(heard, floor)
    if not with_floor < without:
        return FloorFit(None, len(heard), without, with_floor)
    origin = FloorOrigin(len(heard), folds, without, with_floor)
    return FloorFit(replace(floor, origin=origin), len(heard), without, with_floor)


Levels = tuple[float | None, ...]
_WORTH = 0.02
"""The share of its distance by which noise must better a band, or it gets none: two noises that
have nothing in common differ by chance."""
_MOST_PASSES = 20
_CUTOFF_BIN = CUTOFF_HZ * FRAME // TARGET_RATE
_PLACES_PER_WINDOW = 1 << 24
"""Each window hears another part of the noise."""


def _around(level: float | None) -> list[float]:
    return [] if level is None else [level + step for step in _REFINING_DB]


def _descend(
    heard: Sequence[HeardWindow],
    levels: Levels,
    seed: int,
    candidates: Callable[[float | None], list[float]],
) -> Levels:
    """Take the best candidate of each band until none is better."""
    for _ in range(_MOST_PASSES):
        tried = [[None, *candidates(level)] for level in levels]
        table = _weighted_distances(heard, levels, tried, seed)
        table[:, 0] *= 1 - _WORTH
        best = tuple(row[at] for row, at in zip(tried, table.argmin(dim=1).tolist(), strict=True))
        if best == levels:
            break
        levels = best
    return levels


def _weighted_distances(
    heard: Sequence[HeardWindow],
    levels: Levels,
    tried: Sequence[Sequence[float | None]],
    seed: int,
) -> Tensor:
    """What each band adds to the mean LSD-HF, on its tangent at `levels`: [bands, candidates]."""
    hertz = torch.arange(_CUTOFF_BIN, FRAME // 2 + 1) * TARGET_RATE / FRAME
    band = floor_band(hertz) % (ENVELOPE_BANDS + 1)  # the bins below share a last row, silent
    most = max(len(row) for row in tried)
    gains = torch.zeros(ENVELOPE_BANDS + 1, most)
    for row, candidates in zip(gains, tried, strict=False):
        row[: len(candidates)] = torch.tensor([_gain(level) for level in candidates])
    now = torch.tensor([*map(_gain, levels), 0.0])
    sums = torch.zeros(ENVELOPE_BANDS + 1, most, dtype=torch.float64)
    for number, window in enumerate(heard):
        places = torch.arange(len(window.ours)) + number * _PLACES_PER_WINDOW
        noise = white_noise(places, seed).to(window.ours)
        audio = torch.stack([window.ours, window.truth, noise])
        ours, truth, noise = spectrum(audio)[:, _CUTOFF_BIN:]
        true_logs = log_power(truth.abs().square())
        squares = [
            (log_power((ours + gain[band][:, None] * noise).abs().square()) - true_logs).square()
            for gain in (now, *gains.T)
        ]
        distance = squares[0].mean(dim=0).sqrt()
        weights = 1 / distance.clamp(min=_LEAST_DISTANCE) / len(distance)
        found = torch.stack([each @ weights for each in squares[1:]], dim=1)
        sums.index_add_(0, band, found.double())
    return sums[:ENVELOPE_BANDS]


_LEAST_DISTANCE = 1e-3


def _gain(level: float | None) -> float:
    return 0.0 if level is None else 10 ** (level / 20)


def _mean_lsd_hf(heard: Sequence[HeardWindow], floor: NoiseFloor | None) -> float:
    """NaN without a window."""
    total = 0.0
    for number, window in enumerate(heard):
        ours = window.ours.clone()[None]
        if floor is not None:
            floor.add_to(ours, number * _PLACES_PER_WINDOW)
        total += float(lsd_bands(ours, window.truth[None])["lsd_hf"])
    return total / len(heard) if heard else math.nan
