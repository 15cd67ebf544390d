"""Pictures for reports and trackers: spectrograms side by side, curves, estimates, shares.

Every function returns the bytes of a PNG or SVG file and uses its own Figure, never pyplot's
global state, so that it can run in any thread or Ray worker. Colours are Okabe and Ito's, which
stay apart for colour-blind readers (https://jfly.uni-koeln.de/color/).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

ImageFormat = Literal["png", "svg"]
Floats = npt.NDArray[np.floating[Any]]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe-Ito colours, in the order in which curves take them."""

_N_FFT, _HOP = 2048, 512
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.edgecolor": "#8a94a3",
    "axes.labelcolor": "#2b3440",
    "xtick.color": "#4a5564",
    "ytick.color": "#4a5564",
    "text.color": "#1b232d",
    "svg.hashsalt": "ttt",
}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a plot, with an optional band around it."""

    label: str
    """The name in the legend."""
    x: Sequence[float]
    """Positions [n]."""
    y: Sequence[float]
    """Values [n]; NaN leaves a gap."""
    low: Sequence[float] | None = None
    """Lower edge of the band [n]; given together with `high`."""
    high: Sequence[float] | None = None
    """Upper edge of the band [n]."""
    dashed: bool = False
    """Draw the line dashed, as reference lines are."""
    faint: bool = False
    """Draw the line thin and grey and leave its name out, as one of many behind the others."""


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


def spectrograms(
    signals: Mapping[str, Floats],
    rate: int,
    *,
    range_db: float = 90.0,
    title: str = "",
    image_format: ImageFormat = "png",
) -> bytes:
    """Spectrograms of `signals` (label -> samples [T]) side by side on one dB scale.

    0 dB is the loudest bin of the FIRST signal (give the true one first); `range_db` below it is
    black in all of them. Frequency is in kHz up to rate / 2, time in seconds. Raises ValueError
    when there is no signal or one is shorter than the 2,048-sample window.
    """
    if not signals:
        raise ValueError("spectrograms: give at least one signal")
    powers = {label: _power(signal, label) for label, signal in signals.items()}
    peak = max(float(next(iter(powers.values())).max()), 1e-12)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(0.9 + 2.4 * len(powers), 3.2), layout="constrained")
        row: Any = figure.subplots(1, len(powers), sharey=True, squeeze=False)[0]
        picture = None
        for axes, (label, power) in zip(row, powers.items(), strict=True):
            picture = axes.imshow(
                10 * np.log10(np.maximum(power / peak, 1e-12)),
                origin="lower",
                aspect="auto",
                cmap="magma",
                vmin=-range_db,
                vmax=0,
                extent=(0, len(signals[label]) / rate, 0, rate / 2000),
            )
            axes.set_title(label)
            axes.set_xlabel("time (s)")
            axes.xaxis.set_major_locator(MaxNLocator(4, prune="upper"))
        row[0].set_ylabel("frequency (kHz)")
        if picture is not None:
            figure.colorbar(picture, ax=list(row), label="dB", pad=0.015, aspect=30)
        return _save(figure, title, image_format)


def curves(
    lines: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    marks: Mapping[str, float] | None = None,
    image_format: ImageFormat = "png",
) -> bytes:
    """Lines with optional bands and a legend; `marks` draws labelled vertical lines at x.

    `log_x` doubles from tick to tick. Raises ValueError when there is no line.
    """
    if not lines:
        raise ValueError("curves: give at least one line")
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.6, 3.3), layout="constrained")
        axes = figure.subplots()
        for line in lines:
            if line.faint:
                axes.plot(line.x, line.y, color="#c3cad3", linewidth=0.9, marker=_marker(line))
        named = [line for line in lines if not line.faint]
        for place, line in enumerate(named):
            _draw(axes, line, PALETTE[place % len(PALETTE)])
        for label, x in (marks or {}).items():
            axes.axvline(x, color="#8a94a3", linewidth=1, linestyle=":")
            axes.annotate(
                label, (x, 1), xycoords=("data", "axes fraction"), xytext=(3, -11),
                textcoords="offset points", fontsize=8, color="#4a5564",
            )  # fmt: skip
        if log_x:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        if log_y:
            axes.set_yscale("log")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(color="#e3e7ec", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(y=0.12)  # room for the marks' labels above the lines
        # Three long names in a row would not fit the picture.
        columns = 2 if max((len(line.label) for line in named), default=0) > 18 else 3
        if named:
            columns = min(len(named), columns)
            figure.legend(loc="outside lower center", frameon=False, ncols=columns)
        return _save(figure, title, image_format)


def estimates(
    rows: Sequence[str],
    series: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    x_label: str,
    reference: tuple[str, float],
    title: str = "",
    image_format: ImageFormat = "png",
) -> bytes:
    """A dot with its interval per row and series: label -> (mean, low, high) for each of `rows`.

    NaN as mean leaves a place empty, NaN as low and high draws the dot alone. `reference` names a
    value that is drawn as a vertical line. Raises ValueError when there is no row or no series.
    """
    if not rows or not series:
        raise ValueError("estimates: give at least one row and one series")
    with matplotlib.rc_context(_STYLE):
        # Each dot has its line; between rows is room for one more.
        height = 1.1 + 0.17 * len(rows) * (len(series) + 1)
        figure = Figure(figsize=(5.6, max(2.2, height)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(reference[1], color="#8a94a3", linewidth=1, linestyle=":", label=reference[0])
        for place, (label, values) in enumerate(series.items()):
            mean, low, high = np.array(values, dtype=np.float64).reshape(len(rows), 3).T
            y = np.arange(len(rows)) + (place + 1) / (len(series) + 1) - 0.5
            colour = PALETTE[place % len(PALETTE)]
            axes.hlines(y, low, high, color=colour, linewidth=1.8)
            axes.plot(mean, y, "o", color=colour, markersize=4.5, label=label)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(x_label)
        axes.grid(axis="x", color="#e3e7ec", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", frameon=False, ncols=min(len(series) + 1, 3))
        return _save(figure, title, image_format)


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
    with matplotlib.rc_context(_STYLE):
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
        return _save(figure, title, image_format)


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
    with matplotlib.rc_context(_STYLE):
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
        return _save(figure, title, image_format)


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


def _draw(axes: Axes, line: Curve, colour: str) -> None:
    style = "--" if line.dashed else "-"
    axes.plot(
        *(line.x, line.y, style),
        color=colour,
        label=line.label,
        linewidth=1.8,
        marker=_marker(line),
    )
    if line.low is not None and line.high is not None:
        axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)


def _marker(line: Curve) -> str | None:
    return "o" if len(line.x) < 3 else None  # a line of one point would be invisible


def _power(signal: Floats, label: str) -> npt.NDArray[np.float64]:
    """Hann power spectrogram [bins, frames] of samples [T]."""
    samples = np.asarray(signal, dtype=np.float64)
    if samples.ndim != 1 or len(samples) < _N_FFT:
        raise ValueError(f"{label}: shape {samples.shape}; need [T] with T >= {_N_FFT}")
    frames = np.lib.stride_tricks.sliding_window_view(samples, _N_FFT)[::_HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_N_FFT) / _N_FFT)
    return np.abs(np.fft.rfft(frames * window, axis=1).T) ** 2


def _save(figure: Figure, title: str, image_format: ImageFormat) -> bytes:
    if title:
        figure.suptitle(title)
    buffer = io.BytesIO()
    # A date or a version in the file would make equal pictures unequal bytes.
    metadata = {"Date": None} if image_format == "svg" else {"Software": None}
    figure.savefig(buffer, format=image_format, dpi=150, metadata=metadata)
    return buffer.getvalue()
