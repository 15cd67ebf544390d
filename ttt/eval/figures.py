"""The pictures of a chapter evaluation, each as PNG and SVG, from its summary alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from ttt.plots import Curve, ImageFormat, curves

LOSS_NAMES = {
    "moshi": "loss (semantic 100 : acoustic 1)",
    "uniform": "loss (mean of 8 codebooks)",
    "semantic": "semantic loss (codebook 0)",
    "acoustic": "acoustic loss (codebooks 1-7)",
}
_FORMATS: tuple[ImageFormat, ...] = ("png", "svg")


def chapter_plots(summary: Mapping[str, Any]) -> dict[str, bytes]:
    """File name -> content: loss curves, paired differences, TTT activity where there is any."""
    return {
        f"{name}.{image_format}": draw(image_format)
        for image_format in _FORMATS
        for name, draw in _drawings(summary).items()
    }


def chapter_pictures(
    summary: Mapping[str, Any], names: Collection[str] | None = None
) -> dict[str, bytes]:
    """Name -> PNG of all pictures, or of those that are named."""
    return {
        name: draw("png")
        for name, draw in _drawings(summary).items()
        if names is None or name in names
    }


def shown_losses(summary: Mapping[str, Any]) -> list[str]:
    """The headline loss, then semantic and acoustic apart."""
    return [summary["run"]["summary"]["weights"], "semantic", "acoustic"]


def _drawings(summary: Mapping[str, Any]) -> dict[str, Callable[[ImageFormat], bytes]]:
    """What draws each picture, by its name; only of what there are numbers for."""
    plots: dict[str, Callable[[ImageFormat], bytes]] = {}
    for loss in shown_losses(summary):
        if any(model["losses"][loss]["curve"]["frame"] for model in summary["models"].values()):
            plots[f"loss_{loss}"] = partial(loss_plot, summary, loss)
        for compared in summary["comparisons"]:
            if compared["losses"][loss]["curve"]["frame"]:
                name = f"difference_{compared['second']}_{loss}"
                plots[name] = partial(difference_plot, summary, compared, loss)
    for name, model in summary["models"].items():
        if model["activity"]:
            plots[f"activity_{name}"] = partial(activity_plot, summary, name)
    return plots


def loss_plot(summary: Mapping[str, Any], loss: str, image_format: ImageFormat) -> bytes:
    """Loss against position, a line with its band per model: the longer half of the chapters.

    The same chapters stand behind every point of a line; a curve over all of them would change
    its chapters on the way and could fall for that alone.
    """
    lines = []
    for name, model in summary["models"].items():
        line = model["losses"][loss]["balanced_curve"]
        if line["frame"]:
            lines.append(_curve(f"{name} (n = {line['n'][0]})", line))
    return curves(
        lines,
        x_label="position in the chapter (frames, 12.5 per second)",
        y_label="nats",
        title=_title(summary, LOSS_NAMES[loss]),
        marks=_window_marks(summary["models"].values()),
        log_x=True,
        image_format=image_format,
    )


def difference_plot(
    summary: Mapping[str, Any],
    compared: Mapping[str, Any],
    loss: str,
    image_format: ImageFormat,
) -> bytes:
    """The paired difference of two models against position; below 0 the second has less loss.

    As in `loss_plot`, the same chapters stand behind every point.
    """
    line = compared["losses"][loss]["curve"]
    second = summary["models"][compared["second"]]
    label = f"{compared['second']} minus {compared['first']} (n = {line['n'][0]})"
    return curves(
        [
            _curve(label, line),
            Curve(label="no difference", x=line["frame"], y=[0.0] * len(line["n"]), dashed=True),
        ],
        x_label="position in the chapter (frames, 12.5 per second)",
        y_label="nats",
        title=_title(summary, f"difference of the {LOSS_NAMES[loss]}"),
        marks=_window_marks([second]),
        log_x=True,
        image_format=image_format,
    )


def activity_plot(summary: Mapping[str, Any], name: str, image_format: ImageFormat) -> bytes:
    """How far the fast weights have moved from where they start, layer by layer.

    Logarithmic where one layer moves ten times as far as another.
    """
    model = summary["models"][name]
    lines = [
        Curve(label=f"layer {layer}", x=line["frame"], y=line["mean"])
        for layer, line in model["activity"].items()
    ]
    moved = [change for line in lines for change in line.y]
    return curves(
        lines,
        x_label="position in the chapter (frames, 12.5 per second)",
        y_label="||W - W0|| / ||W0||",
        title=_title(summary, f"change of the fast weights of {name}"),
        marks=_window_marks([model]),
        log_x=True,
        log_y=max(moved) > 10 * min(moved) > 0,
        image_format=image_format,
    )


def _title(summary: Mapping[str, Any], title: str) -> str:
    """A picture may be seen without its page, and has to say by itself that it is not valid."""
    return f"{title}\nNot a valid measurement" if summary["warnings"] else title


def _curve(label: str, line: Mapping[str, Sequence[Any]]) -> Curve:
    """A line with a band where there are intervals; one gap in it is NaN, none at all no band."""
    low, high = ([math.nan if y is None else y for y in line[edge]] for edge in ("low", "high"))
    banded = not all(math.isnan(y) for y in low)
    return Curve(
        label=label,
        x=line["frame"],
        y=line["mean"],
        low=low if banded else None,
        high=high if banded else None,
    )


def _window_marks(models: Any) -> dict[str, float]:
    return {f"window {context:,}": float(context) for context in {m["context"] for m in models}}
