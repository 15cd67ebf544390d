"""A blind comparison by ear: trials of two versions that are equally loud and say not whose.

A version is called by a token. Which decoder made it is known to the key alone, which stays with
the evaluation and is no part of the page. Tokens follow from the audio and the key's secret, so
that a page that is made again with the same key is the same page, and answers to it stay valid.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttt.audio import from_int16, to_int16
from ttt.sound.loudness import BLOCK_SAMPLES, RATE, loudness_lufs

KEY_FORMAT, RESULT_FORMAT = "ttt-listening-key", "ttt-listening-result"
FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class Trial:
    """A clip in two versions, of which a listener prefers one or neither."""

    trial_id: str
    clip_id: str
    versions: Mapping[str, np.ndarray]
    """Token -> int16 [T] at 48 kHz, in an order that follows from nothing but the tokens."""
    made_by: Mapping[str, str]
    """Token -> the decoder's letter."""
    lufs: float
    """Loudness of the quieter version, which the other was turned down to."""
    residual_lu: float
    """By how much they still differ, after rounding to 16 bits."""


@dataclass(frozen=True)
class Listening:
    """All trials of a page."""

    page: str
    """Sixteen digits that identify the page by its audio and the secret."""
    secret: str
    trials: Sequence[Trial]
    left_out: Mapping[str, str]
    """Clip -> why it cannot be compared by ear."""

    @property
    def residual_lu(self) -> float:
        """The largest difference in loudness that is left within a trial."""
        return max((trial.residual_lu for trial in self.trials), default=0.0)

    def key(self, decoders: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """For JSON: whose each version is. `decoders` describes each letter."""
        return {
            "format": KEY_FORMAT,
            "format_version": FORMAT_VERSION,
            "page": self.page,
            "secret": self.secret,
            "decoders": dict(decoders),
            "trials": {
                trial.trial_id: {
                    "clip_id": trial.clip_id,
                    "versions": dict(trial.made_by),
                    "lufs": trial.lufs,
                    "residual_lu": trial.residual_lu,
                }
                for trial in self.trials
            },
            "left_out": dict(self.left_out),
        }


def make_listening(clips: Mapping[str, Mapping[str, np.ndarray]], secret: str) -> Listening:
    """Trials of clips: clip id -> letter -> int16 [T] at 48 kHz, of two decoders.

    The louder version is turned down to the quieter one's loudness; nothing is turned up, so
    nothing clips.

    Args:
        secret: what tokens and the order of trials and versions follow from besides the audio; it
            belongs to the key.
    """
    trials: list[Trial] = []
    left_out: dict[str, str] = {}
    for clip_id, versions in clips.items():
        loud = {letter: _loudness(audio) for letter, audio in versions.items()}
        quiet = [letter for letter, lufs in loud.items() if lufs is None]
        if quiet:
            left_out[clip_id] = _why(versions[quiet[0]], quiet[0])
        else:
            known = {letter: lufs for letter, lufs in loud.items() if lufs is not None}
            trials.append(_trial(clip_id, versions, known, secret))
    trials.sort(key=lambda trial: trial.trial_id)
    content = [(trial.trial_id, *trial.versions) for trial in trials]
    page = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return Listening(page, secret, trials, left_out)


def _trial(
    clip_id: str, versions: Mapping[str, np.ndarray], lufs: Mapping[str, float], secret: str
) -> Trial:
    target = min(lufs.values())
    level = {
        letter: _turned_down(audio, lufs[letter] - target) for letter, audio in versions.items()
    }
    content = hashlib.sha256(b"".join(audio.tobytes() for audio in level.values())).hexdigest()
    token_of = {letter: _digest(secret, content, letter) for letter in level}
    tokens = sorted(token_of.values())
    letter_of = {token: letter for letter, token in token_of.items()}
    again = [_loudness(audio) for audio in level.values()]
    return Trial(
        _digest(secret, content, clip_id, "trial"),
        clip_id,
        {token: level[letter_of[token]] for token in tokens},
        {token: letter_of[token] for token in tokens},
        target,
        max(abs(each - target) for each in again if each is not None),
    )


def _loudness(audio: np.ndarray) -> float | None:
    return loudness_lufs(from_int16(audio))


def _turned_down(audio: np.ndarray, decibels: float) -> np.ndarray:
    if decibels == 0:
        return audio
    return to_int16(from_int16(audio) * np.float32(10 ** (-decibels / 20)))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _why(audio: np.ndarray, letter: str) -> str:
    if len(audio) < BLOCK_SAMPLES:
        return f"shorter than the {BLOCK_SAMPLES / RATE:g} s that a loudness needs"
    return f"{letter}'s version has no loudness, it is silent"
