"""Pictures for reports and trackers: spectrograms side by side, curves with bands, estimates.

Every function returns the bytes of a PNG or SVG file and uses its own Figure, never pyplot's
global state, so that it can run in any thread or Ray worker. Colours are Okabe and Ito's, which
stay apart for colour-blind readers (https://jfly.uni-koeln.de/color/).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ImageFormat = Literal["png", "svg"]
Floats = npt.NDArray[np.floating[Any]]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe-Ito colours, in the order in which curves take them."""

_N_FFT, _HOP = 2048, 512
STYLE: dict[Any, Any] = {
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
"""Matplotlib's settings for every picture."""


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
    with _drawing(0.9 + 2.4 * len(powers), 3.2) as figure:
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
            axes.locator_params(axis="x", nbins=4, prune="upper")
        row[0].set_ylabel("frequency (kHz)")
        if picture is not None:
            figure.colorbar(picture, ax=list(row), label="dB", pad=0.015, aspect=30)
        return save(figure, title, image_format)


def curves(
    lines: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    marks: Sequence[tuple[str, float]] = (),
    image_format: ImageFormat = "png",
) -> bytes:
    """Lines with optional bands and a legend; `marks` draws vertical lines, each a label and its x.

    Labels of marks that lie close stand one below the other. `log_x` doubles from tick to tick.
    Raises ValueError when there is no line.
    """
    if not lines:
        raise ValueError("curves: give at least one line")
    with _drawing(5.6, 3.3) as figure:
        axes = figure.subplots()
        for line in lines:
            if line.faint:
                axes.plot(line.x, line.y, color="#c3cad3", linewidth=0.9, marker=_marker(line))
        named = [line for line in lines if not line.faint]
        for place, line in enumerate(named):
            _draw(axes, line, PALETTE[place % len(PALETTE)])
        if log_x:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        if log_y:
            axes.set_yscale("log")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(color="#e3e7ec", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        # Three long names in a row would not fit the picture.
        columns = 2 if max((len(line.label) for line in named), default=0) > 18 else 3
        if named:
            columns = min(len(named), columns)
            figure.legend(loc="outside lower center", frameon=False, ncols=columns)
        _draw_marks(figure, axes, marks)
        return save(figure, title, image_format)


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
    # Each dot has its line; between rows is room for one more.
    height = 1.1 + 0.17 * len(rows) * (len(series) + 1)
    with _drawing(5.6, max(2.2, height)) as figure:
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
        return save(figure, title, image_format)


def save(figure: Figure, title: str, image_format: ImageFormat) -> bytes:
    """The file of a finished figure."""
    if title:
        figure.suptitle(title)
    buffer = io.BytesIO()
    # A date or a version in the file would make equal pictures unequal bytes.
    metadata = {"Date": None} if image_format == "svg" else {"Software": None}
    figure.savefig(buffer, format=image_format, dpi=150, metadata=metadata)
    return buffer.getvalue()


@contextmanager
def _drawing(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of so many inches, to be drawn and saved inside the block."""
    # Only here: whoever finds its pictures drawn does without, which saves half a second.
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


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


def _draw_marks(figure: Figure, axes: Axes, marks: Sequence[tuple[str, float]]) -> None:
    """Labelled vertical lines; a label stands in the highest row where it hides no other."""
    labels = []
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # The next line may cross it.
    for label, x in sorted(marks, key=lambda mark: mark[1]):
        axes.axvline(x, color="#8a94a3", linewidth=1, linestyle=":")
        labels.append(
            axes.annotate(
                label, (x, 1), xycoords=("data", "axes fraction"), xytext=(3, -_MARK_ROW),
                textcoords="offset points", fontsize=8, color="#4a5564",
                bbox=ground,
            )
        )  # fmt: skip
    axes.margins(y=0.12)  # room for a row of labels above the lines
    if not labels:
        return
    figure.draw_without_rendering()  # Only now is known where they stand.
    ends: list[float] = []  # of each row, in pixels
    for label in labels:
        place = label.get_window_extent()
        free = (row for row, end in enumerate(ends) if end < place.x0)
        row = next(free, len(ends))
        ends[row : row + 1] = [place.x1]
        label.set_position((3, -_MARK_ROW * (row + 1)))
    share = _MARK_ROW / 72 * figure.dpi * (len(ends) - 1) / axes.bbox.height
    scale = axes.yaxis.get_transform()
    low, high = scale.transform(np.array(axes.get_ylim()))
    axes.set_ylim(top=float(scale.inverted().transform(low + (high - low) / (1 - share))))


_MARK_ROW = 11
"""Points from one row of labels to the next."""


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
