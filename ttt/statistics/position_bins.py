"""The bins in which a curve by position is drawn: even on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

_FIRST_BIN = 16


def curve_edges(bins_per_octave: int) -> Iterator[int]:
    """Edges of the curve's bins: 0, 16, then evenly on a logarithmic scale for ever."""
    yield 0
    for step in count():
        yield round(_FIRST_BIN * 2 ** (step / bins_per_octave))


def edges_within(frames: int, bins_per_octave: int) -> list[int]:
    """The edges of the bins that so many frames fill."""
    edges = []
    for edge in curve_edges(bins_per_octave):
        if edge > frames:
            return edges
        edges.append(edge)
    raise AssertionError("curve_edges does not end")
