"""ViSQOL in audio mode: a listener's opinion from 1 to about 4.73, predicted from spectrograms.

Unlike a spectral distance it is hardly won by hiss. The score is that of the program it is named
after (github.com/google/visqol, conformance version 333) through the package visqol-python, which
is no condition of anything here: `make setup METRICS=1` installs it. About one second of one CPU
per second of audio.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import numpy as np

from ttt.errors import UserError
from ttt.snac.geometry import TARGET_RATE

SHORTEST_SECONDS = 1.0
"""Below it there is no patch of the spectrogram to compare."""


class NotScored(UserError):
    """ViSQOL has no answer for this pair, and why."""


def is_installed() -> bool:
    """Whether the package that measures is there."""
    return all(importlib.util.find_spec(name) is not None for name in ("visqol", "libsvm"))


def visqol_score(estimate: np.ndarray, reference: np.ndarray, rate: int = TARGET_RATE) -> float:
    """The predicted opinion of `estimate`, floats [T] each; higher is better.

    Levels are matched first. The lengths may differ: cutting the longer one changes the score by
    some 3e-4, which the original does not do. Channels of a stereo recording are averaged before.
    The same arrays give the same number; one thread is used.

    Raises:
        UserError: the package is not installed, or the rate is not 48 kHz.
        NotScored: too short, silent, or not finite.
    """
    if rate != TARGET_RATE:
        raise UserError(f"ViSQOL's audio mode is made for {TARGET_RATE} Hz, got {rate}: resample")
    signals = {"estimate": estimate, "reference": reference}
    for name, audio in signals.items():
        signals[name] = require_scorable(name, np.asarray(audio, np.float64))
    measured = _measurer().measure_from_arrays(signals["reference"], signals["estimate"], rate)
    score = float(measured.moslqo)
    if not np.isfinite(score):
        raise NotScored("ViSQOL gives no finite score")
    return score


def require_scorable(name: str, audio: np.ndarray) -> np.ndarray:
    """`audio` as it is; raises NotScored, or UserError for several channels, with its `name`."""
    if audio.ndim != 1:
        raise UserError(f"ViSQOL compares single channels [T], the {name} is {list(audio.shape)}")
    if len(audio) < SHORTEST_SECONDS * TARGET_RATE:
        seconds = len(audio) / TARGET_RATE
        raise NotScored(f"the {name} has {seconds:.2f} s, ViSQOL needs {SHORTEST_SECONDS:g}")
    if not np.isfinite(audio).all():
        raise NotScored(f"the {name} holds values that are not finite")
    if not audio.any():  # Its level would be raised to the other's, by an infinite factor.
        raise NotScored(f"the {name} is silent")
    return audio


@functools.cache
def _measurer() -> Any:
    if not is_installed():
        raise UserError("ViSQOL is not installed: make setup METRICS=1")
    svm = importlib.import_module("libsvm.svm")
    # Its sums over support vectors are OpenMP's: in several threads their order would vary.
    svm.libsvm.omp_set_num_threads(1)
    measurer = importlib.import_module("visqol").VisqolApi()
    measurer.create(mode="audio")
    return measurer
