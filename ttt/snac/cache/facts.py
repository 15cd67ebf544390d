"""What a cache tells of a clip besides its codes and audio, and what its bandwidths add up to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ttt.snac.cache.bandwidth import bandwidth_hz
from ttt.snac.cache.inputs import ClipFacts, ClipInput, LeftOut, PreparedClip
from ttt.snac.geometry import TARGET_RATE

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
