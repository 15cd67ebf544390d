"""Pictures of every trial of a sweep across its settings, and of which settings mattered.

As in ttt.plots, every picture is the bytes of a PNG or SVG file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ttt.plots import PALETTE, STYLE, ImageFormat, save


@dataclass(frozen=True, kw_only=True)
class Column:
    """One upright axis of parallel coordinates."""

    label: str
    """The name below it."""
    values: Sequence[float | str | None]
    """A number or a word per item [n], numbers among words at even steps below them; an item with
    None is not drawn."""
    log: bool = False
    """Numbers on a logarithmic scale, which has no place for 0 and below."""


def parallel_coordinates(
    columns: Sequence[Column],
    colours: Sequence[float],
    *,
    colour_label: str,
    marked: Mapping[str, int] | None = None,
    title: str = "",
    image_format: ImageFormat = "png",
) -> bytes:
    """Items as lines across the columns, coloured by `colours` [n] (dark is low).

    `marked` (label -> item) draws items thick, the first in PALETTE's orange. Raises ValueError
    with fewer than two columns.
    """
    if len(columns) < 2:
        raise ValueError(f"parallel_coordinates: give at least two columns, got {len(columns)}")
    heights = [_heights(column) for column in columns]
    lines = np.array([places for places, _ in heights]).T
    shade = Normalize(min(colours), max(colours))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.2 + 1.7 * len(columns), 3.6), layout="constrained")
        axes = figure.subplots()
        across = np.arange(len(columns))
        colour_map = matplotlib.colormaps["viridis"]
        for item in np.argsort(colours)[::-1]:
            axes.plot(across, lines[item], color=colour_map(shade(colours[item])), linewidth=1.2)
        for place, (label, item) in enumerate((marked or {}).items()):
            axes.plot(across, lines[item], color=PALETTE[1 - place], linewidth=3, label=label)
        for at, (_, ticks) in enumerate(heights):
            axes.axvline(at, color="#8a94a3", linewidth=1)
            for text, height in ticks.items():
                axes.annotate(
                    text, (at, height), xytext=(4, 2), textcoords="offset points", fontsize=8
                )
        axes.set_xticks(across, [column.label for column in columns])
        axes.set_yticks([])
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
        axes.set_xlim(-0.1, len(columns) - 0.55)
        figure.colorbar(ScalarMappable(shade, colour_map), ax=axes, label=colour_label, pad=0.01)
        if marked:
            figure.legend(loc="outside lower center", frameon=False, ncols=len(marked))
        return save(figure, title, image_format)


def shares(
    rows: Sequence[str],
    values: Sequence[float],
    references: Sequence[float],
    *,
    x_label: str,
    reference_label: str,
    title: str = "",
    image_format: ImageFormat = "png",
) -> bytes:
    """A bar for each of `rows` from 0 to its value in [0, 1], with a mark at its own reference.

    Raises ValueError when there is no row.
    """
    if not rows:
        raise ValueError("shares: give at least one row")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, max(1.6, 1.0 + 0.3 * len(rows))), layout="constrained")
        axes = figure.subplots()
        y = np.arange(len(rows))
        axes.barh(y, values, height=0.55, color=PALETTE[0])
        axes.vlines(references, y - 0.4, y + 0.4, color=PALETTE[1], label=reference_label)
        axes.set_yticks(y, rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel(x_label)
        axes.grid(axis="x", color="#e3e7ec", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", frameon=False)
        return save(figure, title, image_format)


def _heights(column: Column) -> tuple[list[float], dict[str, float]]:
    """Where each item crosses the column, 0 at its foot and 1 at its top, and its labels."""
    if any(isinstance(value, str) for value in column.values):
        known = {value for value in column.values if value is not None}
        steps = sorted(known, key=lambda value: (isinstance(value, str), value))
        places = {value: index / max(len(steps) - 1, 1) for index, value in enumerate(steps)}
        heights = [np.nan if value is None else places[value] for value in column.values]
        return heights, {_tick(value): place for value, place in places.items()}
    numbers = np.array([np.nan if v is None else v for v in column.values], dtype=np.float64)
    if column.log:
        numbers[~(numbers > 0)] = np.nan
    if np.isnan(numbers).all():
        return numbers.tolist(), {}
    scaled = np.log(numbers) if column.log else numbers
    low, high = np.nanmin(scaled), np.nanmax(scaled)
    ticks = {f"{numbers[np.nanargmin(scaled)]:.3g}": 0.0}
    if high > low:
        ticks[f"{numbers[np.nanargmax(scaled)]:.3g}"] = 1.0
    return ((scaled - low) / (high - low if high > low else 1)).tolist(), ticks


def _tick(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
