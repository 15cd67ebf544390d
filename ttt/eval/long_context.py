"""Does the loss keep falling along a chapter? Curves, losses at positions, slopes, from records.

Four losses are computed of every frame, each a fixed mixture of the eight codebooks' NLL in nats:

    moshi     100 parts semantic (codebook 0), 1 part each acoustic one, over 107: as Moshi trains
    uniform   the mean of all eight
    semantic  codebook 0 alone         what is said
    acoustic  the mean of the others   how it sounds

A frame's position is its index, counted from 0. Chapters count equally. Intervals resample whole
speakers, because chapters of one reader resemble each other, and are widened as few speakers need
it. With fewer than five speakers there is no interval; the reason is given in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ttt.config import Config
from ttt.eval.chapter_records import ChapterRecord
from ttt.eval.significance import expanded_level
from ttt.stats import Interval, bootstrap_interval, ratio_interval

Floats = npt.NDArray[np.float64]

LOSSES: dict[str, tuple[float, ...]] = {
    "moshi": (100 / 107, *[1 / 107] * 7),
    "uniform": (1 / 8,) * 8,
    "semantic": (1.0, *[0.0] * 7),
    "acoustic": (0.0, *[1 / 7] * 7),
}
FEWEST_SPEAKERS = 5
_FIRST_BIN = 16


@dataclass(frozen=True, kw_only=True)
class LongContextConfig(Config):
    """What is computed from the records; changing it needs no model, only `rescore`."""

    weights: Literal["moshi", "uniform"] = "moshi"
    """The loss that headlines: moshi (100:1 for the semantic codebook) or uniform (mean of 8)."""
    positions: tuple[int, ...] = (1000, 2000, 4000, 8000, 16000, 24000)
    """Frames at which the loss is reported."""
    window_frames: int = 1000
    """The loss at a position is the mean over this many frames around it."""
    bins_per_octave: int = 4
    """Points of the curve between a position and its double."""
    min_slope_frames: int = 500
    """Frames beyond the model's window that a chapter needs to have a slope."""
    resamples: int = 2000
    """Bootstrap resamples of every interval."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if not self.positions or min(self.positions) < self.window_frames / 2:
            raise ValueError(
                "positions must be at least half of window_frames; lower window_frames or leave "
                "out the smallest"
            )
        if self.window_frames < 2 or self.window_frames % 2:
            raise ValueError("window_frames must be an even number above 0")
        if self.bins_per_octave < 1 or self.resamples < 1:
            raise ValueError("bins_per_octave and resamples must be 1 or more")
        if self.min_slope_frames < 3:
            raise ValueError("min_slope_frames must be 3 or more: a line needs points")


@dataclass(frozen=True, kw_only=True)
class ChapterMeasures:
    """The numbers of one chapter under one model."""

    chapter_id: str
    speaker: str
    codes_sha256: str
    frames: int
    values: dict[str, dict[str, float | None]]
    """Loss -> measure -> value; None where the chapter is too short for it."""
    curves: dict[str, tuple[float, ...]]
    """Loss -> mean of every whole bin of `curve_edges` that the chapter fills."""


def measure_chapter(
    record: ChapterRecord, context: int, config: LongContextConfig
) -> ChapterMeasures:
    """All measures of one chapter.

    mean, beyond_window (frames from `context` on), at_P for each position, slope_per_frame and
    slope_per_doubling (least squares on the frame and on its base-2 logarithm beyond `context`),
    and start, edge, end: the first frames, the last within the window, the last of the chapter.

    Args:
        context: frames that the model's attention reaches back.
    """
    nll = record.nll.astype(np.float64)
    values, curves = {}, {}
    for name, weights in LOSSES.items():
        loss = np.asarray(weights) @ nll
        values[name] = _values(loss, context, config)
        edges = _edges_within(len(loss), config.bins_per_octave)
        curves[name] = tuple(float(loss[low:high].mean()) for low, high in pairwise(edges))
    details = record.details
    return ChapterMeasures(
        chapter_id=details.chapter_id,
        speaker=details.speaker,
        codes_sha256=details.codes_sha256,
        frames=record.frames,
        values=values,
        curves=curves,
    )


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
        "losses": {name: _summarize_loss(chapters, name, context, config) for name in LOSSES},
    }


def legacy(summary: dict[str, Any]) -> dict[str, Any]:
    """The original evaluation's result keys, from `summarize`'s dictionary.

    Values are window means over all chapters (None where no chapter is long enough), not the
    single frames of the original; its figures are not comparable.
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
    interval = bootstrap_interval(
        values, config.seed, config.resamples, _level(speakers), clusters=speakers
    )
    return _with_enough_speakers(interval, speakers)


def curve_edges(bins_per_octave: int) -> Iterator[int]:
    """Edges of the curve's bins: 0, 16, then evenly on a logarithmic scale for ever."""
    yield 0
    for step in count():
        yield round(_FIRST_BIN * 2 ** (step / bins_per_octave))


def _values(loss: Floats, context: int, config: LongContextConfig) -> dict[str, float | None]:
    frames, half = len(loss), config.window_frames // 2
    measures: dict[str, float | None] = {
        "mean": float(loss.mean()),
        "beyond_window": float(loss[context:].mean()) if frames > context else None,
    }
    for position in config.positions:
        reached = position + half <= frames
        measures[f"at_{position}"] = (
            float(loss[position - half : position + half].mean()) if reached else None
        )
    beyond = np.arange(context, frames, dtype=np.float64)
    long_enough = len(beyond) >= config.min_slope_frames
    tail = loss[context:]
    measures["slope_per_frame"] = _slope(beyond, tail) if long_enough else None
    measures["slope_per_doubling"] = _slope(np.log2(beyond), tail) if long_enough else None
    short = max(1, min(config.window_frames, context // 2))
    whole = frames >= context + short
    measures["start"] = float(loss[:short].mean()) if whole else None
    measures["edge"] = float(loss[context - short : context].mean()) if whole else None
    measures["end"] = float(loss[-short:].mean()) if whole else None
    return measures


def _slope(x: Floats, y: Floats) -> float:
    centred = x - x.mean()
    return float(centred @ y / (centred @ centred))


def _edges_within(frames: int, bins_per_octave: int) -> list[int]:
    edges = []
    for edge in curve_edges(bins_per_octave):
        if edge > frames:
            return edges
        edges.append(edge)
    raise AssertionError("curve_edges does not end")


def _summarize_loss(
    chapters: Sequence[ChapterMeasures], loss: str, context: int, config: LongContextConfig
) -> dict[str, Any]:
    measures = {
        name: _measure(chapters, loss, name, config)
        for name in ("mean", "beyond_window", "slope_per_frame", "slope_per_doubling")
    }
    positions = {
        str(position): _measure(chapters, loss, f"at_{position}", config)
        for position in config.positions
    }
    panel = _panel(chapters)
    return {
        "measures": measures,
        "positions": positions,
        "utilisation": _utilisation(chapters, loss, config),
        "curve": _curve(chapters, loss, config),
        "balanced_curve": {
            "min_frames": min((chapter.frames for chapter in panel), default=None),
            **_curve(panel, loss, config, whole_panel=True),
        },
    }


def _measure(
    chapters: Sequence[ChapterMeasures], loss: str, name: str, config: LongContextConfig
) -> dict[str, Any]:
    there = [
        (value, chapter.speaker)
        for chapter in chapters
        if (value := chapter.values[loss][name]) is not None
    ]
    if not there:
        return Interval(None, None, None, 0, "no chapter is long enough").to_dict()
    values, speakers = zip(*there, strict=True)
    return speaker_interval(values, speakers, config).to_dict()


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
        share = Interval(None, None, None, 0, "no chapter is long enough")
    elif (start - end).mean() > 0:
        share = ratio_interval(
            edge - end, start - end, config.seed, config.resamples, 0.95, speakers
        )
        share = _with_enough_speakers(share, speakers)
    return {
        "gain_within_window": speaker_interval(start - edge, speakers, config).to_dict(),  # pyright: ignore[reportArgumentType]
        "gain_beyond_window": speaker_interval(edge - end, speakers, config).to_dict(),  # pyright: ignore[reportArgumentType]
        "share_beyond_window": share.to_dict(),
    }


def _level(speakers: Sequence[str]) -> float:
    return expanded_level(max(FEWEST_SPEAKERS, len(set(speakers))))


def _with_enough_speakers(interval: Interval, speakers: Sequence[str]) -> Interval:
    number = len(set(speakers))
    if interval.mean is None or number >= FEWEST_SPEAKERS:
        return interval
    reason = f"{number} speaker{'s' * (number != 1)}; an interval needs {FEWEST_SPEAKERS}"
    return Interval(interval.mean, None, None, interval.n, reason)


def _panel(chapters: Sequence[ChapterMeasures]) -> list[ChapterMeasures]:
    """The longer half of the chapters: the same ones at every point of the balanced curve."""
    by_length = sorted(chapters, key=lambda chapter: -chapter.frames)
    if not by_length:
        return []
    shortest = by_length[(len(by_length) - 1) // 2].frames
    return [chapter for chapter in chapters if chapter.frames >= shortest]


def _curve(
    chapters: Sequence[ChapterMeasures],
    loss: str,
    config: LongContextConfig,
    whole_panel: bool = False,
) -> dict[str, list[Any]]:
    """Point by point: position (the middle of the bin on a log scale), mean, band, chapters."""
    reached = [len(chapter.curves[loss]) for chapter in chapters]
    bins = (min if whole_panel else max)(reached, default=0)
    edges = [edge for _, edge in zip(range(bins + 1), curve_edges(config.bins_per_octave))]  # noqa: B905
    points: dict[str, list[Any]] = {"frame": [], "mean": [], "low": [], "high": [], "n": []}
    for place in range(bins):
        there = [chapter for chapter in chapters if len(chapter.curves[loss]) > place]
        interval = speaker_interval(
            [chapter.curves[loss][place] for chapter in there],
            [chapter.speaker for chapter in there],
            config,
        )
        low, high = edges[place], edges[place + 1]
        points["frame"].append(round((max(low, 1) * high) ** 0.5, 1))
        points["mean"].append(interval.mean)
        points["low"].append(interval.low)
        points["high"].append(interval.high)
        points["n"].append(interval.n)
    return points
