"""Copies of a clip at other levels, which teach a head how much energy there is above the band.

The codes of a codec carry the level. So a copy is encoded by itself, at its gain, and its 48 kHz
audio is the clip's at the same gain. It lies in its clip's shard, right behind it, with an id of
its own (`copy_id`) and the column copy_of; the shards are cut by clips, and clips are what is
counted, split and measured.

A copy never clips and is never silent: the gains that fit a clip are the hundredths of a dB of the
configured range, without 0, at which its loudest sample stays within full scale and above
quality.silent_peak_db. They are cut into as many equal parts as there are copies, and a hash of
(seed, clip id, number of the copy) takes one of each part: two copies of a clip are never alike,
and which they are depends on nothing else.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from ttt.config import Config
from ttt.errors import UserError
from ttt.snac.cache.inputs import ClipInput, PreparedClip

_STEPS_PER_DB = 100
_EXACT = 1e-9
"""By which a whole number of steps may miss itself."""
_LOUDEST = 32767
_COPIES_AT_MOST = 16
_GAIN_AT_MOST_DB = 60.0
_ENDS_LIKE_A_COPY = re.compile(r"@[+-]\d+\.\d\ddB$")


@dataclass(frozen=True, kw_only=True)
class GainCopiesConfig(Config):
    """How many copies of each clip are cached, and at which levels."""

    lowest: float = -12.0
    """The lowest gain in dB; lower ones show the decoder quieter speech."""
    highest: float = 12.0
    """The highest gain in dB; a clip whose loudest sample would pass full scale gets less."""
    copies: int = 2
    """Copies of each clip; disk, memory, encoding and the steps of an epoch grow by as many."""
    seed: int = 0
    """Another seed draws other gains from the same range."""

    def __post_init__(self) -> None:
        if not -_GAIN_AT_MOST_DB <= self.lowest < self.highest <= _GAIN_AT_MOST_DB:
            raise ValueError(
                f"lowest must be below highest, and both from {-_GAIN_AT_MOST_DB:g} to "
                f"{_GAIN_AT_MOST_DB:g} dB, got {self.lowest:g} and {self.highest:g}"
            )
        if not 1 <= self.copies <= _COPIES_AT_MOST:
            raise ValueError(
                f"copies must be from 1 to {_COPIES_AT_MOST}, got {self.copies}; for none at all "
                "set gain_copies_db: null"
            )

    @property
    def words(self) -> str:
        """For people who are about to cache."""
        return f"{self.copies} of each input at {self.lowest:+g} to {self.highest:+g} dB"


def add_copies(
    prepare: Callable[[ClipInput], PreparedClip],
    config: GainCopiesConfig,
    silent_peak_db: float,
    clip: ClipInput,
) -> PreparedClip:
    """What `prepare` makes of a clip, with the gains of its copies; a note says where some lack."""
    prepared = prepare(clip)
    peak = max(int(prepared.audio.max()), -int(prepared.audio.min()))
    gains_db = draw_gains_db(config, prepared.clip_id, peak, silent_peak_db)
    notes = prepared.notes
    if len(gains_db) < config.copies:
        notes += (
            f"{len(gains_db)} of {config.copies} copies at other levels: with a peak of "
            f"{_decibel(peak):.2f} dB, {config.lowest:+g} to {config.highest:+g} dB would clip or "
            "be silent",
        )
    return replace(prepared, copy_gains_db=gains_db, notes=notes)


def draw_gains_db(
    config: GainCopiesConfig, clip_id: str, peak: int, silent_peak_db: float
) -> tuple[float, ...]:
    """The gains of a clip's copies, rising; fewer where fewer fit, none of a silent clip.

    `peak` is the largest magnitude of the clip's int16 samples.
    """
    if peak == 0:
        return ()
    lowest = max(config.lowest, silent_peak_db - _decibel(peak))
    highest = min(config.highest, 20 * math.log10(_LOUDEST / peak))
    first = math.ceil(lowest * _STEPS_PER_DB - _EXACT)
    last = math.floor(highest * _STEPS_PER_DB + _EXACT)
    fitting = [step for step in range(first, last + 1) if step != 0]
    count = min(config.copies, len(fitting))
    drawn = []
    for number in range(count):
        start, stop = (len(fitting) * at // count for at in (number, number + 1))
        digest = hashlib.sha256(f"{config.seed}\0{number}\0{clip_id}".encode()).digest()
        place = start + int.from_bytes(digest[:8], "little") % (stop - start)
        drawn.append(fitting[place] / _STEPS_PER_DB)
    return tuple(drawn)


def copy_id(clip_id: str, gain_db: float) -> str:
    """The id of a clip's copy."""
    return f"{clip_id}@{gain_db:+.2f}dB"


def refuse_ids_of_copies(inputs: Iterable[ClipInput]) -> None:
    """Raise UserError for an input whose id could be that of another's copy."""
    for clip in inputs:
        if _ENDS_LIKE_A_COPY.search(clip.clip_id):
            raise UserError(
                f"{clip.clip_id}: its id ends as those of copies at other levels do; rename it, or "
                "set input.gain_copies_db: null"
            )


def at_gain(audio: np.ndarray, gain_db: float) -> np.ndarray:
    """int16 audio at another level, rounded; within full scale for the gains that are drawn."""
    return np.rint(audio * factor(gain_db)).astype(np.int16)


def factor(gain_db: float) -> np.float32:
    """What samples are multiplied by."""
    return np.float32(10 ** (gain_db / 20))


def stored_gain_db(column: float) -> float:
    """The gain that a shard's float32 column holds."""
    return round(column * _STEPS_PER_DB) / _STEPS_PER_DB


def _decibel(peak: int) -> float:
    return 20 * math.log10(peak / 32768) if peak else -math.inf
