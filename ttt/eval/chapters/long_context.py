"""Does the loss keep falling along a chapter? Means over chapters, with honest intervals.

Chapters count equally, in slopes by what they know. Intervals are by whole
speakers, because chapters of one reader resemble each other, and are widened as few speakers need
it. With fewer than five speakers there is no interval; the reason is given in its place.

A slope fitted to n frames has a variance that falls as 1 / n^3 (`information` is its inverse, up
to the noise that all chapters share), so that a chapter just beyond the window says a millionth of
what a long one says. Weights that follow this alone are the best ones while nothing but noise
separates slopes. Speakers have slopes of their own, too, and then equal weights are the best. So
chapters of a speaker weigh by their information, and no speaker more than twice the mean of all
speakers: whatever separates slopes, the speakers are worth at least half of their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ttt.eval.chapters.measures import LOSSES, SLOPES, ChapterMeasures
from ttt.eval.config import LongContextConfig
from ttt.statistics.intervals import (
    Interval,
    clustered_interval,
    clustered_ratio_interval,
    clustered_weighted_interval,
    effective_count,
)
from ttt.statistics.position_bins import curve_edges

_TOO_SHORT = "no chapter is long enough"


def summarize(
    chapters: Sequence[ChapterMeasures], context: int, config: LongContextConfig
) -> dict[str, Any]:
    """Means over chapters with intervals, for each loss; ready for JSON."""
    return {
        "chapters": len(chapters),
        "speakers": len({chapter.speaker for chapter in chapters}),
        "frames": sum(chapter.frames for chapter in chapters),
        "context": context,
        "weights": config.weights,
        "settled_from": config.settled_from(context),
        "losses": {name: _summarize_loss(chapters, name, context, config) for name in LOSSES},
    }


def legacy(summary: dict[str, Any]) -> dict[str, Any]:
    """The original evaluation's result keys, from `summarize`'s dictionary.

    Values are window means over all chapters (None where no chapter is long enough, or where
    `positions` leaves the position out), not the single frames of the original; its figures are
    not comparable.
    """
    loss = summary["losses"][summary["weights"]]
    at = {key: interval["mean"] for key, interval in loss["positions"].items()}
    return {
        **{f"librilight_loss_{k}k": at.get(f"{k}000") for k in (8, 16, 24)},
        "librilight_slope": loss["measures"]["slope_per_frame"]["mean"],
        "librilight_samples": summary["chapters"],
    }


def speaker_interval(
    values: Sequence[float], speakers: Sequence[str], config: LongContextConfig
) -> Interval:
    """The mean of one value per chapter with its 95 % interval, resampled by speaker."""
    if not len(values):
        return Interval(None, None, None, 0, _TOO_SHORT)
    return clustered_interval(values, speakers, config.seed, config.resamples, "speaker")


def longer_half(frames: Sequence[int]) -> list[int]:
    """Places of the longer half of the chapters: the same ones at every point of a curve."""
    if not frames:
        return []
    shortest = sorted(frames, reverse=True)[(len(frames) - 1) // 2]
    return [place for place, each in enumerate(frames) if each >= shortest]


def mean_curve(
    lines: Sequence[Sequence[float]],
    speakers: Sequence[str],
    config: LongContextConfig,
    balanced: bool = False,
) -> dict[str, list[Any]]:
    """The mean of chapters' curves, point by point: frame, mean, low, high and n (chapters).

    A point's frame is the middle of its bin on a logarithmic scale. A chapter counts as far as it
    reaches; `balanced` ends the curve where the first chapter does.
    """
    bins = (min if balanced else max)(map(len, lines), default=0)
    edges = list(islice(curve_edges(config.bins_per_octave), bins + 1))
    points: dict[str, list[Any]] = {"frame": [], "mean": [], "low": [], "high": [], "n": []}
    for place, (low, high) in enumerate(pairwise(edges)):
        there = [number for number, line in enumerate(lines) if len(line) > place]
        interval = speaker_interval(
            [lines[number][place] for number in there],
            [speakers[number] for number in there],
            config,
        )
        points["frame"].append(round((max(low, 1) * high) ** 0.5, 1))
        points["mean"].append(interval.mean)
        points["low"].append(interval.low)
        points["high"].append(interval.high)
        points["n"].append(interval.n)
    return points


def _summarize_loss(
    chapters: Sequence[ChapterMeasures], loss: str, context: int, config: LongContextConfig
) -> dict[str, Any]:
    measures = {
        name: _measure(chapters, loss, name, config)
        for name in ("mean", "beyond_window", "settled", *SLOPES)
    }
    positions = {
        str(position): _measure(chapters, loss, f"at_{position}", config)
        for position in config.positions
    }
    panel = [chapters[place] for place in longer_half([c.frames for c in chapters])]
    return {
        "measures": measures,
        "positions": positions,
        "utilisation": _utilisation(chapters, loss, config),
        "curve": _curve(chapters, loss, config),
        "balanced_curve": {
            "min_frames": min((chapter.frames for chapter in panel), default=None),
            **_curve(panel, loss, config, balanced=True),
        },
    }


def _measure(
    chapters: Sequence[ChapterMeasures], loss: str, name: str, config: LongContextConfig
) -> dict[str, Any]:
    there = [chapter for chapter in chapters if chapter.values[loss][name] is not None]
    values = [chapter.values[loss][name] for chapter in there]
    speakers = [chapter.speaker for chapter in there]
    if name in SLOPES:
        return slope_interval(values, [c.slope_information[name] for c in there], speakers)  # pyright: ignore[reportArgumentType]
    return speaker_interval(values, speakers, config).to_dict()  # pyright: ignore[reportArgumentType]


def _utilisation(
    chapters: Sequence[ChapterMeasures], loss: str, config: LongContextConfig
) -> dict[str, Any]:
    """How much the loss falls within the window and beyond it, and the latter's share.

    The share is undefined unless the loss falls on the whole.
    """
    long = [c for c in chapters if c.values[loss]["end"] is not None]
    speakers = [c.speaker for c in long]
    start, edge, end = (
        np.array([c.values[loss][name] for c in long], dtype=np.float64)
        for name in ("start", "edge", "end")
    )
    share = Interval(None, None, None, len(long), "the loss does not fall on the whole")
    if not long:
        share = Interval(None, None, None, 0, _TOO_SHORT)
    elif (start - end).mean() > 0:
        share = clustered_ratio_interval(
            edge - end, start - end, speakers, config.seed, config.resamples, "speaker"
        )
    return {
        "gain_within_window": speaker_interval(start - edge, speakers, config).to_dict(),  # pyright: ignore[reportArgumentType]
        "gain_beyond_window": speaker_interval(edge - end, speakers, config).to_dict(),  # pyright: ignore[reportArgumentType]
        "share_beyond_window": share.to_dict(),
    }


def _curve(
    chapters: Sequence[ChapterMeasures],
    loss: str,
    config: LongContextConfig,
    balanced: bool = False,
) -> dict[str, list[Any]]:
    lines = [chapter.curves[loss] for chapter in chapters]
    return mean_curve(lines, [chapter.speaker for chapter in chapters], config, balanced)


Floats = npt.NDArray[np.float64]

WEIGHTING = "information, a speaker at most twice the mean speaker"
"""What summaries call these weights."""
_MOST = 2.0
_HALVINGS = 60


def slope_interval(
    slopes: Sequence[float], information: Sequence[float], speakers: Sequence[str]
) -> dict[str, Any]:
    """The weighted mean of slopes and its 95 % interval by speaker, ready for JSON.

    `effective_speakers` says how many equally heavy speakers would average as well.
    """
    if not slopes:
        nothing = Interval(None, None, None, 0, "no chapter is long enough")
        return {**nothing.to_dict(), "weighting": WEIGHTING, "effective_speakers": None}
    weights = slope_weights(information, speakers)
    interval = clustered_weighted_interval(slopes, weights, speakers, "speaker")
    effective = effective_count(_by_speaker(weights, speakers)[0])
    return {**interval.to_dict(), "weighting": WEIGHTING, "effective_speakers": effective}


def slope_weights(information: Sequence[float], speakers: Sequence[str]) -> Floats:
    """A weight per chapter [n], their sum 1; see above."""
    weights = np.asarray(information, dtype=np.float64)
    totals, which = _by_speaker(weights, speakers)
    weights = weights * (np.minimum(1.0, _limit(totals) / totals))[which]
    return weights / weights.sum()


def speaker_slopes(
    slopes: Sequence[float], information: Sequence[float], speakers: Sequence[str]
) -> list[float]:
    """Each speaker's mean slope, chapters weighted by their information."""
    weights = np.asarray(information, dtype=np.float64)
    totals, _ = _by_speaker(weights, speakers)
    sums, _ = _by_speaker(weights * np.asarray(slopes), speakers)
    return (sums / totals).tolist()


def _limit(totals: Floats) -> float:
    """The largest weight that is at most twice the mean of all after they are cut to it."""
    low, high = float(totals.min()), float(totals.max())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle <= _MOST * np.minimum(totals, middle).mean():
            low = middle
        else:
            high = middle
    return high if high <= _MOST * np.minimum(totals, high).mean() else low


def _by_speaker(values: Floats, speakers: Sequence[str]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Sums by speaker in order of first appearance, and which sum each value is in."""
    numbers: dict[str, int] = {}
    which = np.array([numbers.setdefault(name, len(numbers)) for name in speakers], dtype=np.int64)
    return np.bincount(which, values, len(numbers)).astype(np.float64), which
