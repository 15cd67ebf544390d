"""What goes into a cache: one record per input, the audio made ready, or the reason it is not.

Every input ends as a `PreparedClip` that is stored in a shard, or as a `LeftOut` whose reason is
written to the manifest; nothing in between.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ttt.config import Config
from ttt.errors import UserError
from ttt.snac.geometry import Codes

MIN_TARGET_RATE = 44_100
"""A file below this rate has nothing that a 48 kHz decoder could learn from."""

Reason = Literal[
    "unreadable",
    "wrong rate",
    "too short",
    "too long",
    "silent",
    "channels cancel",
    "clipped",
    "narrow band",
    "no partner",
    "no speaker",
    "duplicate",
    "lag not found",
    "misaligned codes",
    "codes out of range",
    "failed",
]


@dataclass(frozen=True)
class ClipInput:
    """One input of a cache, as it was found."""

    clip_id: str
    """Unique in the cache: the path below the input folder."""
    source: str = ""
    """The file that is encoded; for an original cache the parquet file with the codes."""
    target: str = ""
    """The file with the 48 kHz audio, where it is another one."""
    row: int = -1
    """The row of `source`, where it is a parquet file."""
    span: tuple[int, int] | None = None
    """The bytes [start, stop) of `source`, where it is a tar."""
    speaker: str | None = None
    """Who speaks; None when that is unknown."""
    problem: Reason | None = None
    """Why this input cannot be used, where that was known before opening it."""
    problem_note: str = ""
    """The details of `problem`."""
    file_bytes: int | None = None
    """`size_on_disk` as the clip's shard is made, of a tar or parquet file as it was listed; None
    in caches begun before sizes were noted."""


def size_on_disk(clip: ClipInput) -> int | None:
    """Size of `source` and `target` together; None where a file is missing, or is no local one.

    A replaced file is noticed by it: reading all audio again would cost too much. Of a file that
    holds many clips the listing has told it.
    """
    if clip.span is not None or (clip.row >= 0 and not clip.target):
        return clip.file_bytes
    try:
        return sum(os.stat(path).st_size for path in (clip.source, clip.target) if path)
    except OSError:
        return None  # What cannot be read is in the manifest, with its reason.


@dataclass(frozen=True)
class ClipFacts:
    """What a cache tells of a clip besides its codes and audio."""

    speaker: str | None = None
    """Who speaks; None when that is unknown."""
    bandwidth_hz: int | None = None
    """How far up its sound reaches; None when that is unknown."""


@dataclass(frozen=True, eq=False)
class PreparedClip:
    """One clip ready to be encoded (or with its codes) and stored."""

    clip_id: str
    audio: np.ndarray
    """int16 [n_samples] at 48 kHz."""
    source: np.ndarray | None = None
    """float32 [samples] at the codec's rate, to be encoded; None when `codes` are there."""
    codes: Codes | None = None
    gain_db: float | None = None
    """Gain that was applied to the audio; None when it was not measured."""
    lag_samples: int | None = None
    """48 kHz samples by which the audio was late; None when it was not measured."""
    notes: tuple[str, ...] = ()
    """What was done to the audio, for the manifest."""
    facts: ClipFacts | None = None
    """For the shard and the manifest; None in a cache whose other shards have none."""
    copy_gains_db: tuple[float, ...] | None = None
    """Gains of its copies (ttt.snac.cache.gain_copies); None where no copies were asked for."""


class LeftOut(Exception):
    """An input that is not cached, with its reason and what a person needs to know of it."""

    def __init__(self, reason: Reason, note: str, seconds: float | None = None) -> None:
        super().__init__(reason, note, seconds)
        self.reason = reason
        self.note = note
        self.seconds = seconds


class InputChanged(UserError):
    """A file that holds many clips is gone, or another than when its clips were listed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QualityConfig(Config):
    """Which audio is left out. Every file that is appears in manifest.jsonl with its reason."""

    min_seconds: float = 0.25
    """Shorter clips are "too short": all their samples lie within the decoder's reach of an end."""
    max_seconds: float = 3600.0
    """Longer clips are "too long": a clip is held in memory as a whole; cut it first."""
    silent_peak_db: float = -60.0
    """Clips whose loudest sample is below this level (dB re full scale) are "silent"."""
    clipped_share: float = 0.01
    """Clips with more than this share of samples at full scale are "clipped"."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < self.max_seconds:
            raise ValueError(
                f"min_seconds must be from 0 to below max_seconds ({self.max_seconds}), "
                f"got {self.min_seconds}"
            )
        if self.max_seconds > 6 * 3600:
            raise ValueError(
                f"max_seconds must be at most 21,600 (a shard holds 2 GiB of a clip), "
                f"got {self.max_seconds}"
            )
        if self.silent_peak_db >= 0:
            raise ValueError(f"silent_peak_db must be below 0, got {self.silent_peak_db}")
        if not 0 < self.clipped_share <= 1:
            raise ValueError(
                f"clipped_share must be above 0 and at most 1, got {self.clipped_share}"
            )

    def check_length(self, seconds: float) -> None:
        """Raises LeftOut when a clip of this length is too short or too long."""
        if seconds <= 0 or seconds < self.min_seconds:
            note = f"{seconds:.4f} s, quality.min_seconds is {self.min_seconds}"
            raise LeftOut("too short", note, seconds)
        if seconds > self.max_seconds:
            note = f"{seconds:.0f} s, quality.max_seconds is {self.max_seconds:.0f}"
            raise LeftOut("too long", note, seconds)

    def check_level(self, audio: np.ndarray, seconds: float, name: str = "") -> None:
        """Raises LeftOut when audio (any shape) is silent or clipped."""
        magnitude = np.abs(audio)
        peak = float(magnitude.max())
        if peak < 10 ** (self.silent_peak_db / 20):
            level = f"{20 * math.log10(peak):.1f} dB" if peak > 0 else "zero everywhere"
            raise LeftOut("silent", f"{name}peak {level}", seconds)
        share = float((magnitude >= _FULL_SCALE).mean())
        if share > self.clipped_share:
            raise LeftOut("clipped", f"{name}{share:.1%} of samples at full scale", seconds)


# The loudest code of 16-bit audio; 24-bit and float files reach a little higher.
_FULL_SCALE = 32767 / 32768
