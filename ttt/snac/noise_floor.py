"""A noise floor for a decoder's top octave: noise of one level per band, the same for all time.

What a distance of spectra teaches a head is the mean of what the top octave may hold, which is
duller than any recording. The floor is fitted after training on clips that the decoder was not
trained on (`ttt.snac.train.floor_fit`) and added to what it decodes.

The noise is a pure function of (seed, absolute sample at 48 kHz): sample n is the same number
whether a clip is decoded whole, in slices or from a stream, on any device. White noise from a
counter's hash (SplitMix64) runs through a linear-phase filter, block by block; where the blocks
begin is a property of the absolute sample, too, so that not even rounding depends on the slices.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ttt.snac.geometry import TARGET_RATE
from ttt.snac.metrics import ENVELOPE_BANDS, ENVELOPE_START_HZ, FRAME, band_energies, envelope_band

FLOOR_START_HZ = 12_300
"""Nothing is added below; from here the filter rises to the first band."""


@dataclass(frozen=True)
class FloorOrigin:
    """What a floor was fitted on, and what it does there."""

    windows: int
    """Windows of clips that the decoder which decoded them was not trained on."""
    folds: int
    """Trainings without a fold of the training clips; 0: the run's validation clips."""
    lsd_hf_without: float
    """Mean LSD-HF over the windows without the floor."""
    lsd_hf_with: float
    """The same with it."""


@dataclass(frozen=True)
class NoiseFloor:
    """Levels of noise, and where in which noise it is."""

    levels_db: tuple[float | None, ...]
    """Of each of env-r's 16 bands from 12.6 to 24 kHz: the RMS in dB re full scale of the white
    noise (0 to 24 kHz) that is as strong there; None for a band without noise."""
    seed: int = 0
    """Another seed is another noise."""
    origin: FloorOrigin | None = None
    """None where the levels were set by hand."""

    def __post_init__(self) -> None:
        if len(self.levels_db) != ENVELOPE_BANDS:
            raise ValueError(
                f"a noise floor has {ENVELOPE_BANDS} levels, got {len(self.levels_db)}"
            )
        given = [level for level in self.levels_db if level is not None]
        if not given or not all(math.isfinite(level) and level <= 0 for level in given):
            raise ValueError(
                f"levels of a noise floor are finite, at most 0 dB and not all null, got {given}"
            )

    def add_to(self, audio: Tensor, first_sample: int | Sequence[int] = 0) -> None:
        """Add the floor to 48 kHz audio [B, T], whose rows begin at these absolute samples.

        Nothing is clipped: a floor is far below full scale, and files of 16 bits clip by
        themselves. Raises ValueError unless there is one sample for all rows or one for each.
        """
        if isinstance(first_sample, int):
            audio += self.noise(first_sample, audio.shape[1], audio)
            return
        for row, first in zip(audio, first_sample, strict=True):
            row += self.noise(first, len(row), row)

    def noise(self, first_sample: int, samples: int, like: Tensor) -> Tensor:
        """The floor from an absolute 48 kHz sample on: [samples], of `like`'s device and type."""
        start, last = first_sample // _BLOCK, (first_sample + max(samples, 1) - 1) // _BLOCK
        blocks = torch.arange(start, last + 1, device=like.device)[:, None] * _BLOCK
        places = blocks + torch.arange(-_HALF, _BLOCK + _HALF, device=like.device)
        response = self._response.to(like.device)
        # Each block by itself: some processors round another last bit where several are together.
        filtered = [
            torch.fft.irfft(torch.fft.rfft(block) * response, len(block))[2 * _HALF :]
            for block in white_noise(places, self.seed)
        ]
        offset = first_sample - start * _BLOCK
        return torch.cat(filtered)[offset : offset + samples].to(like.dtype)

    @property
    def words(self) -> str:
        """Such as `-81 to -62 dB in 16 of 16 bands`."""
        levels = [level for level in self.levels_db if level is not None]
        return f"{min(levels):g} to {max(levels):g} dB in {len(levels)} of {ENVELOPE_BANDS} bands"

    @property
    def digest(self) -> str:
        """Twelve hex digits that identify the noise, wherever it was fitted."""
        made_of = json.dumps([self.levels_db, self.seed])
        return hashlib.sha256(made_of.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """What `to_dict` made. Raises TypeError, KeyError or ValueError for anything else."""
        origin = fields["origin"]
        levels = tuple(None if level is None else float(level) for level in fields["levels_db"])
        return cls(levels, int(fields["seed"]), origin and FloorOrigin(**origin))

    @functools.cached_property
    def _response(self) -> Tensor:
        """The filter's spectrum at a block's length: complex128, on the CPU."""
        return torch.fft.rfft(_taps(self.levels_db), _BLOCK + 2 * _HALF)


_HALF = 320
"""Samples that the filter reaches to each side: 6.7 ms."""
_BLOCK = 8192 - 2 * _HALF
"""Samples filtered at once, by a Fourier transform of 8,192."""


def white_noise(places: Tensor, seed: int) -> Tensor:
    """Uniform noise of variance 1 at absolute samples (int64, any shape); float64.

    SplitMix64's output number `place`, of which the upper 24 bits are kept: whole numbers all the
    way, which wrap around alike on CPU and GPU.
    """
    z = places * _signed(0x9E3779B97F4A7C15) + _signed(_mixed(seed))
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    z = z ^ _shifted(z, 31)
    return ((z >> 40).double() + 0.5) * (math.sqrt(3) / 2**23)


def floor_band(hertz: Tensor) -> Tensor:
    """The band whose level each frequency has, -1 below the middle of the first slope; int64."""
    middle = (FLOOR_START_HZ + ENVELOPE_START_HZ) / 2
    return envelope_band(hertz).clamp(min=0).where(hertz >= middle, -1)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shifted right with zeros from the left: torch's int64 has a sign, which it would repeat."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """64 bits as torch's int64 reads them."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _mixed(seed: int) -> int:
    """A start far from that of other seeds, whose noise would otherwise be this one's, later."""
    mask = (1 << 64) - 1
    z = (seed + 1) * 0xD1342543DE82EF95 & mask
    z = (z ^ (z >> 32)) * 0xDABA0B6EB09322E3 & mask
    z = (z ^ (z >> 32)) * 0xDABA0B6EB09322E3 & mask
    return z ^ (z >> 32)


def _taps(levels_db: tuple[float | None, ...]) -> Tensor:
    """The impulse response [2 * _HALF + 1], float64, whose power in each band is the asked one.

    A stair of amplitudes, seen through a Kaiser window. The window carries some of a band's power
    into its neighbours, so the stair is corrected until the bands' powers are right.
    """
    hertz = torch.arange(_GRID // 2 + 1, dtype=torch.float64) * TARGET_RATE / _GRID
    band = floor_band(hertz)
    window = torch.kaiser_window(2 * _HALF + 1, periodic=False, beta=_BETA, dtype=torch.float64)
    asked = torch.tensor(
        [0.0 if level is None else 10 ** (level / 10) for level in levels_db], dtype=torch.float64
    )
    stair, taps = asked.clone(), torch.zeros(2 * _HALF + 1, dtype=torch.float64)
    for _ in range(_CORRECTIONS):
        response = torch.fft.irfft(stair.sqrt()[band.clamp(min=0)] * (band >= 0))
        taps = torch.cat([response[-_HALF:], response[: _HALF + 1]]) * window
        found = band_energies(torch.fft.rfft(taps, _GRID).abs().square()[:: _GRID // FRAME, None])
        stair = stair * (asked / found[:, 0].clamp(min=1e-300)).clamp(0.1, 10)
    return taps


_GRID = 16 * FRAME
_BETA = 5.65  # -60 dB beside the pass band (Kaiser's formula), which is then 270 Hz away.
_CORRECTIONS = 20
