"""What one chapter's record says: its loss at positions, its slopes, its curve.

Four losses are computed of every frame, each a fixed mixture of the eight codebooks' NLL in nats:

    moshi     100 parts semantic (codebook 0), 1 part each acoustic one, over 107: as Moshi trains
    uniform   the mean of all eight
    semantic  codebook 0 alone         what is said
    acoustic  the mean of the others   how it sounds

A frame's position is its index, counted from 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ttt.codebook_weights import mixture
from ttt.eval.chapters.records import ChapterRecord
from ttt.eval.config import LongContextConfig
from ttt.statistics.position_bins import edges_within

Floats = npt.NDArray[np.float64]

LOSSES: dict[str, tuple[float, ...]] = {
    "moshi": mixture("moshi", 8),
    "uniform": mixture("uniform", 8),
    "semantic": (1.0, *[0.0] * 7),
    "acoustic": (0.0, *[1 / 7] * 7),
}
_FEWEST_POINTS = 3
SLOPES = ("slope_per_frame", "slope_per_doubling")


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
    slope_information: dict[str, float | None]
    """Slope -> sum of squared distances from the mean position: a slope's variance is that of the
    noise over this. None where there is no slope."""


def measure_chapter(
    record: ChapterRecord, context: int, config: LongContextConfig
) -> ChapterMeasures:
    """All measures of one chapter.

    mean, beyond_window (frames from `context` on), settled (frames from `config.settled_from` on),
    at_P for each position, slope_per_frame and slope_per_doubling (least squares of the settled
    periods' means on their position and on its base-2 logarithm), and start, edge, end: the first
    frames, the last within the window, the last of the chapter.

    Args:
        context: frames that the model's attention reaches back.
    """
    nll = record.nll.astype(np.float64)
    values, curves = {}, {}
    lines = _slope_lines(nll.shape[1], context, config)
    for name, weights in LOSSES.items():
        loss = np.asarray(weights) @ nll
        values[name] = _values(loss, context, config, lines)
        edges = edges_within(len(loss), config.bins_per_octave)
        curves[name] = tuple(float(loss[low:high].mean()) for low, high in pairwise(edges))
    details = record.details
    return ChapterMeasures(
        chapter_id=details.chapter_id,
        speaker=details.speaker,
        codes_sha256=details.codes_sha256,
        frames=record.frames,
        values=values,
        curves=curves,
        slope_information={
            name: None if line is None else float(line @ line) * config.slope_period_frames
            for name, line in lines.items()
        },
    )


def _slope_lines(frames: int, context: int, config: LongContextConfig) -> dict[str, Floats | None]:
    """Slope -> distances of the settled periods' positions from their mean; None: too few.

    Where losses alternate by their place in a period, a line through single frames is tilted.
    """
    positions = _periods(np.arange(frames, dtype=np.float64), context, config)
    settled = frames - config.settled_from(context)
    if settled < config.min_slope_frames or len(positions) < _FEWEST_POINTS:
        return dict.fromkeys(SLOPES)
    doublings = np.log2(positions)
    return {
        "slope_per_frame": positions - positions.mean(),
        "slope_per_doubling": doublings - doublings.mean(),
    }


def _periods(values: Floats, context: int, config: LongContextConfig) -> Floats:
    """Means of the settled values over whole periods; what is left at the end is in none."""
    settled, period = values[config.settled_from(context) :], config.slope_period_frames
    whole = len(settled) // period * period
    return settled[:whole].reshape(-1, period).mean(axis=1)


def _values(
    loss: Floats, context: int, config: LongContextConfig, lines: dict[str, Floats | None]
) -> dict[str, float | None]:
    frames, half = len(loss), config.window_frames // 2
    settled = loss[config.settled_from(context) :]
    by_period = _periods(loss, context, config)
    measures: dict[str, float | None] = {
        "mean": float(loss.mean()),
        "beyond_window": float(loss[context:].mean()) if frames > context else None,
        "settled": float(settled.mean()) if len(settled) else None,
    }
    for position in config.positions:
        reached = position + half <= frames
        measures[f"at_{position}"] = (
            float(loss[position - half : position + half].mean()) if reached else None
        )
    for name, line in lines.items():
        measures[name] = None if line is None else float(line @ by_period / (line @ line))
    short = max(1, min(config.window_frames, context // 2))
    whole = frames >= context + short
    measures["start"] = float(loss[:short].mean()) if whole else None
    measures["edge"] = float(loss[context - short : context].mean()) if whole else None
    measures["end"] = float(loss[-short:].mean()) if whole else None
    return measures
