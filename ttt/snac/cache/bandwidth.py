"""How far up the sound of a clip reaches, whatever its sample rate claims.

Upsampled telephone speech and decoded MP3 come as 48 kHz files. A head trained on them learns that
the upper band is silent, or full of whatever the conversion left there.

A band counts when its loud frames stand above its quiet ones: speech comes and goes, the floor of a
recording (hiss, dither, rounding) stays. In a steady sound, where no band comes and goes, it counts
when it stands above the quietest band. Mirror images of the spectrum, which a cheap resampler
leaves above the original Nyquist frequency, do not count: in a mirror image every bin follows its
original from frame to frame, in anything else the two are independent.

Shapes: power and levels (dB) are [frames, bins] or [frames, bands].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ttt.snac.cache.inputs import ClipFacts, ClipInput, LeftOut, PreparedClip
from ttt.snac.geometry import TARGET_RATE

BAND_HZ = 250
"""Bandwidths are multiples of it."""

_FRAME_SAMPLES = 1920
"""Bins of 25 Hz, in which the sample rates of `_RATES` are whole numbers."""
_BIN_HZ = TARGET_RATE // _FRAME_SAMPLES
_BAND_BINS = BAND_HZ // _BIN_HZ
_FRAMES_AT_LEAST = 8
_BINS_AT_LEAST = 5
_FRAMES_AT_MOST = 4_000
_LOUD_PERCENTILE, _QUIET_PERCENTILE = 98, 10
_COMES_AND_GOES_DB = 10.0
_STANDS_ABOVE_DB = 15.0
_INDEPENDENT_DB = 3.0
_MIRRORED_SHARE = 0.6
"""Bins that stay within `_INDEPENDENT_DB` of their original: of mirror images 73 % and more, of
independent bins 54 % and less, seen on recordings and a synthetic voice."""
_ROUNDING_DB = 10 * np.log10(1 / 12 / 32768**2)
"""What rounding to int16 leaves in every bin."""
_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100)


def bandwidth_hz(audio: np.ndarray) -> int | None:
    """The upper edge in Hz of the highest band with sound in it; a multiple of BAND_HZ.

    `audio` is int16 [samples] at 48 kHz. None when nothing can be said: it is silent, or shorter
    than an eighth of a second.
    """
    power = _power(audio)
    if power is None:
        return None
    bands = power[:, : -(power.shape[1] % _BAND_BINS) or None]
    levels = _decibel(bands.reshape(len(power), -1, _BAND_BINS).mean(axis=2))
    rate = _rate_before(_decibel(power), levels)
    sounding = _sounding(levels if rate is None else levels[:, : rate // 2 // BAND_HZ])
    if not sounding.any():
        return None
    return (int(np.flatnonzero(sounding)[-1]) + 1) * BAND_HZ


def _power(audio: np.ndarray) -> np.ndarray | None:
    """Power spectra [frames, bins] of frames spread over the clip; None when it is too short.

    White noise has its own variance in every bin.
    """
    last = len(audio) - _FRAME_SAMPLES
    hop = max(_FRAME_SAMPLES // 4, last // _FRAMES_AT_MOST)
    if last // hop + 1 < _FRAMES_AT_LEAST:
        return None
    # Side lobes more than 100 dB down: the floor lies that far below speech.
    window = np.kaiser(_FRAME_SAMPLES, 14.0)
    window = (window / np.sqrt((window**2).sum()) / 32768).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(audio, _FRAME_SAMPLES)[::hop]
    centred = frames - frames.mean(axis=1, keepdims=True, dtype=np.float32)
    # In float32 torch takes a fifth of numpy's time.
    return np.abs(torch.fft.rfft(torch.from_numpy(centred * window)).numpy()) ** 2


def _sounding(levels: np.ndarray) -> np.ndarray:
    """Which bands hold more than the clip's own floor: bool [bands]."""
    loud, quiet = np.percentile(levels, (_LOUD_PERCENTILE, _QUIET_PERCENTILE), axis=0)
    lively = loud > np.maximum(quiet, _ROUNDING_DB) + _COMES_AND_GOES_DB
    # A band between two steady ones is a chance of few frames.
    lively &= np.append(lively[1:], False) | np.append(False, lively[:-1])
    if lively.any():
        return lively
    steady = np.median(levels, axis=0)
    audible = steady > _ROUNDING_DB + _STANDS_ABOVE_DB
    above = steady > steady.min() + _STANDS_ABOVE_DB
    return audible & above if above.any() else audible


def _rate_before(bins: np.ndarray, levels: np.ndarray) -> int | None:
    """The sample rate a clip once had, if all that sounds above half of it are mirror images."""
    floor = max(np.percentile(levels, _QUIET_PERCENTILE, axis=0).min(), _ROUNDING_DB)
    by_bin = np.ascontiguousarray(bins.T)
    heard = by_bin > floor + _STANDS_ABOVE_DB
    often = np.count_nonzero(heard, axis=1) >= _FRAMES_AT_LEAST
    for rate in _RATES:
        period = rate // _BIN_HZ
        above = np.arange(period // 2 + 1, len(by_bin))
        above = above[often[above]]
        if len(above) < _BINS_AT_LEAST:
            continue
        # By itself, since what lies higher may be the image of another rate's image.
        first, rest = above[above < period], above[above >= period]
        followed = _followed(by_bin, heard, period, first)
        if len(first) >= _BINS_AT_LEAST and not _is_mirrored(followed):
            continue
        if _is_mirrored(followed + _followed(by_bin, heard, period, rest)):
            return rate
    return None


def _followed(by_bin: np.ndarray, heard: np.ndarray, period: int, above: np.ndarray) -> np.ndarray:
    """How often the bins `above` follow the bins that they may mirror, of how often they are heard.

    `by_bin` and `heard` are [bins, frames].
    """
    heard = heard[above]
    count = np.count_nonzero(heard, axis=1)
    apart = by_bin[above] - by_bin[np.minimum(above % period, -above % period)]
    # The median of what is heard: sorted, it lies before the rest.
    in_order = np.sort(np.where(heard, apart, np.float32(np.inf)), axis=1)
    row = np.arange(len(above))
    middle = (in_order[row, (count - 1) // 2] + in_order[row, count // 2]) / 2
    follows = heard & (np.abs(apart - middle[:, None]) < _INDEPENDENT_DB)
    return np.array([np.count_nonzero(follows), count.sum()])


def _is_mirrored(followed: np.ndarray) -> bool:
    often, of = followed
    return bool(often / of > _MIRRORED_SHARE)


def _decibel(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 1e-20))


WIDE_HZ = 16_000
"""Audio that reaches it holds most of what a 48 kHz head can learn to add."""


def add_facts(
    prepare: Callable[[ClipInput], PreparedClip], min_bandwidth_hz: float | None, clip: ClipInput
) -> PreparedClip:
    """What `prepare` makes of a clip, with its facts.

    Raises LeftOut as `prepare` does, and for a clip that does not reach `min_bandwidth_hz`.
    """
    prepared = prepare(clip)
    reached = bandwidth_hz(prepared.audio)
    if min_bandwidth_hz is not None and (reached is None or reached < min_bandwidth_hz):
        found = "its bandwidth is unknown" if reached is None else f"reaches {reached:,} Hz"
        note = f"{found}, input.min_bandwidth_hz is {min_bandwidth_hz:,.0f}"
        raise LeftOut("narrow band", note, len(prepared.audio) / TARGET_RATE)
    return replace(prepared, facts=ClipFacts(speaker=clip.speaker, bandwidth_hz=reached))


@dataclass(frozen=True)
class BandwidthHours:
    """Hours of audio by how far up they reach."""

    reaching_16_khz: float
    below_16_khz: float
    unknown: float
    """Of clips whose bandwidth could not be measured, or that were cached before it was."""

    @classmethod
    def of(cls, n_samples: np.ndarray, bandwidths_hz: np.ndarray) -> BandwidthHours:
        """From 48 kHz samples [clips] and bandwidths [clips], NaN where unknown."""
        hours = np.asarray(n_samples, np.float64) / TARGET_RATE / 3600
        wide, unknown = bandwidths_hz >= WIDE_HZ, np.isnan(bandwidths_hz)
        below = ~wide & ~unknown
        return cls(*(float(hours[chosen].sum()) for chosen in (wide, below, unknown)))

    @property
    def share_reaching_16_khz(self) -> float | None:
        """Of the hours whose bandwidth is known; None when it is known of none."""
        known = self.reaching_16_khz + self.below_16_khz
        return self.reaching_16_khz / known if known else None

    def sentence(self) -> str:
        """For people who are about to train on this audio."""
        share = self.share_reaching_16_khz
        if share is None:
            return "bandwidth: unknown; how many hours reach 16 kHz was not measured while caching"
        total = self.reaching_16_khz + self.below_16_khz + self.unknown
        unknown = f"; of {self.unknown / total:.1%} it is unknown" if self.unknown else ""
        return f"bandwidth: {share:.1%} of the hours reach 16 kHz{unknown}"
