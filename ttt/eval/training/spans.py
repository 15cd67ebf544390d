"""Spans that were heard while training: their mean curves, and two models in pairs.

A span is a row of chapter_id, speaker, frames, `losses` (measure -> nats) and `curve` (bin ->
nats), as `ttt.moshi.training.validation` measures them. Differences are the second's minus the
first's, so that a negative one means that the second has less loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ttt.eval.chapters.long_context import longer_half, mean_curve, speaker_interval
from ttt.eval.config import LongContextConfig

MEASURES = ("in_window", "beyond_window", "mean", "semantic", "acoustic")
"""The losses of a span: before and beyond the reach of attention, whole, and beyond it apart."""

SpanRow = Mapping[str, Any]

_CONFIG = LongContextConfig(bins_per_octave=1)
"""Intervals as an evaluation of chapters has them, and the bins of a span's curve."""


def paired_differences(first: Sequence[SpanRow], second: Sequence[SpanRow]) -> dict[str, Any]:
    """Measure -> the mean of second - first over the spans, with its interval by speaker.

    A span that is too short for a measure is left out of it. Both hold the same spans in the same
    order; raises ValueError otherwise.
    """
    pairs = list(zip(first, second, strict=True))
    for one, other in pairs:
        if one["chapter_id"] != other["chapter_id"]:
            raise ValueError(f"{one['chapter_id']} is paired with {other['chapter_id']}")
    found = {}
    for name in MEASURES:
        there = [(a, b) for a, b in pairs if name in a["losses"] and name in b["losses"]]
        speakers = [span["speaker"] for span, _ in there]
        differences = [b["losses"][name] - a["losses"][name] for a, b in there]
        interval = speaker_interval(differences, speakers, _CONFIG)
        found[name] = {**interval.to_dict(), "speakers": len(set(speakers))}
    return found


def mean_of(spans: Sequence[SpanRow]) -> dict[str, list[Any]]:
    """The mean curve of the longer half of the spans, the same ones at every point."""
    return _curve([list(span["curve"].values()) for span in _panel(spans)], _panel(spans))


def difference_curve(first: Sequence[SpanRow], second: Sequence[SpanRow]) -> dict[str, list[Any]]:
    """The curve of second - first of the longer half of the spans, with intervals by speaker."""
    panel = _panel(first)
    lines = [
        [b - a for a, b in zip(one["curve"].values(), other["curve"].values(), strict=True)]
        for one, other in zip(panel, _panel(second), strict=True)
    ]
    return _curve(lines, panel)


def _panel(spans: Sequence[SpanRow]) -> list[SpanRow]:
    return [spans[place] for place in longer_half([span["frames"] for span in spans])]


def _curve(lines: list[list[float]], panel: Sequence[SpanRow]) -> dict[str, list[Any]]:
    return mean_curve(lines, [span["speaker"] for span in panel], _CONFIG, balanced=True)
