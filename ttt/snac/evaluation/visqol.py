"""ViSQOL in audio mode: a listener's opinion from 1 to about 4.73, predicted from spectrograms.

Unlike a spectral distance it is hardly won by hiss. The score is that of the program it is named
after (github.com/google/visqol, conformance version 333) through the package visqol-python, which
is no condition of anything here: `make setup METRICS=1` installs it. About one second of one CPU
per second of audio and system, so it is measured on the middle of some clips.

It is reported beside the verdict and never part of it; where the two contradict each other the
summary's sentence says so.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ttt.errors import UserError
from ttt.snac.evaluation.comparisons import units_of
from ttt.snac.evaluation.systems import BASELINE, OURS, SYSTEM_NAMES
from ttt.snac.geometry import TARGET_RATE
from ttt.statistics.intervals import Interval, clustered_interval

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


PASSAGE_SECONDS = 5.0
"""The middle of a clip, at most so long, is what ViSQOL hears."""

Scores = Mapping[str, float | None]
"""System -> score of one clip; None where there is none (a silent estimate)."""


def passage(samples: int, rate: int) -> slice:
    """The middle of a clip of so many samples."""
    count = min(samples, int(PASSAGE_SECONDS * rate))
    start = (samples - count) // 2
    return slice(start, start + count)


def spread_evenly(count: int, most: int) -> list[int]:
    """At most `most` of `count` places, from the first to the last."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [0]
    return [round(k * (count - 1) / (most - 1)) for k in range(most)]


def missing(reason: str) -> dict[str, Any]:
    """What a summary says where ViSQOL was not measured."""
    return {"missing": reason, "sentence": f"ViSQOL was not measured: {reason}."}


def told_by(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a summary says of ViSQOL; those written before it was reported say nothing."""
    return summary.get("visqol") or missing("this summary is from before it was reported")


def summarize_visqol(
    scores: Sequence[Scores | None],
    speakers: Sequence[str | None],
    verdict: Mapping[str, Any],
    *,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    """Means with intervals, ours minus resampling, and a sentence, for JSON.

    Args:
        scores: one per clip; None for those that were not chosen or have no score.
        speakers: one per clip; None where that is unknown.
        verdict: of `ttt.snac.verdict.summarize`, to see whether the two agree.
    """
    if not any(scores):
        return missing("no clip could be scored")
    units = units_of(speakers)

    def interval(values: Sequence[float | None]) -> Interval:
        places = [place for place, value in enumerate(values) if value is not None]
        return clustered_interval(
            [value for value in values if value is not None],
            [units.of_clips[place] for place in places],
            seed,
            resamples,
            units.kind,
        )

    def of_system(system: str) -> list[float | None]:
        return [None if clip is None else clip.get(system) for clip in scores]

    ours, theirs = of_system(OURS), of_system(BASELINE)
    difference = interval(
        [
            None if first is None or second is None else first - second
            for first, second in zip(ours, theirs, strict=True)
        ]
    )
    by_system = {system: interval(of_system(system)) for system in SYSTEM_NAMES}
    systems = {system: found.to_dict() for system, found in by_system.items() if found.n}
    contradicts = _contradiction(difference, verdict)
    return {
        "missing": None,
        "passage_seconds": PASSAGE_SECONDS,
        "systems": systems,
        "difference": difference.to_dict(),
        "contradicts": contradicts is not None,
        "sentence": _sentence(systems, difference, contradicts),
    }


def _better(difference: Interval) -> str | None:
    """Which of the two ViSQOL tells to be better; None where it does not."""
    if difference.low is None or difference.high is None:
        return None
    if difference.low > 0:
        return "ours"
    return "resampling" if difference.high < 0 else None


def _contradiction(difference: Interval, verdict: Mapping[str, Any]) -> str | None:
    better, heading = _better(difference), verdict["heading"]
    if (better == "resampling" and verdict["kind"] == "good") or (
        better == "ours" and heading.startswith("Worse")
    ):
        return f"This contradicts the verdict: by ViSQOL {better} is better."
    return None


def _sentence(
    systems: Mapping[str, Mapping[str, Any]], difference: Interval, contradicts: str | None
) -> str:
    if difference.mean is None:
        return "ViSQOL has no clip with a score of both ours and resampling."
    if difference.low is None:
        ends = f"no interval: {difference.reason}"
    else:
        ends = f"95 % interval {difference.low:+.3f} to {difference.high:+.3f}"
    better = _better(difference)
    agreement = contradicts or (
        f"By it {better} is better." if better else "By it neither is shown to be better."
    )
    return (
        f"ViSQOL (a predicted opinion, 1 to 4.73, no part of the verdict) is "
        f"{systems[OURS]['mean']:.3f} for ours and {systems[BASELINE]['mean']:.3f} for resampling: "
        f"{difference.mean:+.3f} ({ends}, the middle {PASSAGE_SECONDS:g} s of {difference.n} "
        f"clips). {agreement}"
    )
