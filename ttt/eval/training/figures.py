"""The figures of a training in Moshi and of two of them, from their summaries alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ttt.eval.figures import LOSS_NAMES, Figures
from ttt.plots import PALETTE, Curve, ImageFormat, curves

_POSITION = "position in the chapter (frames, 12.5 per second)"
Marks = Sequence[tuple[str, float]]
"""Labels and where they stand."""
WINDOW_SIDES = {"beyond_window": "beyond", "in_window": "inside"}
"""The losses that have a picture by step, in words."""
LAYER_ROWS = {
    "gate": "gate: mean |tanh(alpha)|",
    "fast_weight_change": "change of the fast weights: ||W - W0|| / ||W0||",
}
"""What is told of every TTT layer, in words."""


def training_figures(summary: Mapping[str, Any]) -> Figures:
    """Losses by position and by step, layers, training; only of what there are numbers for."""
    plots: dict[str, Callable[..., bytes]] = {}
    if summary["curves"]["base"]["frame"]:
        plots["curves"] = partial(_positions, summary, _named_curves(summary))
        if summary["difference_curve"] is not None:
            label = f"step {summary['best_step']:,} minus base"
            plots["difference"] = partial(_difference, summary, label)
    if summary["validations"]:
        plots |= {measure: partial(_losses, summary, measure) for measure in WINDOW_SIDES}
    for row in LAYER_ROWS:
        if any(each[row] for each in summary["validations"]):
            plots[row] = partial(_layers, summary, row)
    if summary["steps"]:
        plots["training"] = partial(_training, summary)
        plots["rates"] = partial(_rates, summary)
    return plots


def comparison_figures(summary: Mapping[str, Any]) -> Figures:
    """Losses by position of both beside the base, and their difference."""
    if not summary["difference_curve"]["frame"]:
        return {}
    first, second = summary["names"]
    label = f"{first} minus {second}"
    return {
        "curves": partial(_positions, summary, summary["curves"]),
        "difference": partial(_difference, summary, label),
    }


def _named_curves(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The curves with what their steps are."""
    named = {}
    for step, line in summary["curves"].items():
        what = {"0": "untrained", str(summary["best_step"]): "best"}.get(step)
        label = step if step == "base" else f"step {int(step):,}"
        named[f"{label} ({what})" if what else label] = line
    return named


def _positions(
    summary: Mapping[str, Any], lines: Mapping[str, Any], image_format: ImageFormat
) -> bytes:
    """The mean loss by position, of the longer half of the spans; the base dashed."""
    return curves(
        [
            Curve(label=label, x=line["frame"], y=line["mean"], dashed=label == "base")
            for label, line in sorted(lines.items(), key=lambda each: each[0] == "base")
        ],  # the base last, or what has not moved from it would cover it
        x_label=_POSITION,
        y_label="nats",
        title=_loss_name(summary),
        marks=_window_mark(summary),
        log_x=True,
        image_format=image_format,
    )


def _difference(summary: Mapping[str, Any], label: str, image_format: ImageFormat) -> bytes:
    """A paired difference by position with its band; below 0 the first that is named has less."""
    line = summary["difference_curve"]
    low, high = (_numbers(line[edge]) for edge in ("low", "high"))
    banded = not all(map(math.isnan, low))
    return curves(
        [
            Curve(
                label=f"{label} (n = {line['n'][0]})",
                x=line["frame"],
                y=_numbers(line["mean"]),
                low=low if banded else None,
                high=high if banded else None,
            ),
            Curve(label="no difference", x=line["frame"], y=[0.0] * len(line["n"]), dashed=True),
        ],
        x_label=_POSITION,
        y_label="nats",
        title=f"difference of the {_loss_name(summary)}",
        marks=_window_mark(summary),
        log_x=True,
        image_format=image_format,
    )


def _losses(summary: Mapping[str, Any], measure: str, image_format: ImageFormat) -> bytes:
    """A loss of validation by step, and where the base model's lies."""
    at = [each["step"] for each in summary["validations"]]
    lines = [
        Curve(
            label="trained",
            x=at,
            y=_numbers([each["losses"].get(measure) for each in summary["validations"]]),
        ),
        Curve(
            label="base",
            x=at,
            y=_numbers([summary["base"].get(measure)] * len(at)),
            dashed=True,
        ),
    ]
    title = f"validation {WINDOW_SIDES[measure]} the window"
    return _by_step(lines, "nats", title, _stage_marks(summary), image_format)


def _layers(summary: Mapping[str, Any], row: str, image_format: ImageFormat) -> bytes:
    """A row of all TTT layers by step; of more than have colours, the two extremes are named.

    Logarithmic where one layer is ten times as large as another.
    """
    at = [each["step"] for each in summary["validations"]]
    values = {
        layer: _numbers([each[row].get(layer) for each in summary["validations"]])
        for layer in summary["validations"][-1][row]
    }
    named = set(values)
    if len(values) > len(PALETTE):
        named = {extreme(values, key=lambda layer: values[layer][-1]) for extreme in (min, max)}
    lines = [
        Curve(label=layer.replace("_", " "), x=at, y=y, faint=layer not in named)
        for layer, y in values.items()
    ]
    told = [value for line in lines for value in line.y if not math.isnan(value)]
    return curves(
        lines,
        x_label="step",
        y_label="",
        title=LAYER_ROWS[row],
        marks=_stage_marks(summary),
        log_y=max(told, default=0) > 10 * min(told, default=0) > 0,
        image_format=image_format,
    )


def _training(summary: Mapping[str, Any], image_format: ImageFormat) -> bytes:
    lines = [
        Curve(
            label="training loss",
            x=[each["step"] for each in summary["steps"]],
            y=_numbers([each["loss"] for each in summary["steps"]]),
        )
    ]
    return _by_step(lines, "nats", "training loss", _stage_marks(summary), image_format)


def _rates(summary: Mapping[str, Any], image_format: ImageFormat) -> bytes:
    lines = [
        Curve(
            label=group,
            x=[each["step"] for each in summary["steps"]],
            y=[each["learning_rate"][group] for each in summary["steps"]],
            dashed=place > 0,  # groups may have the same rates
        )
        for place, group in enumerate(summary["trained"])
    ]
    return _by_step(lines, "", "learning rates", _stage_marks(summary), image_format)


def _by_step(
    lines: Sequence[Curve],
    y_label: str,
    title: str,
    marks: Marks,
    image_format: ImageFormat,
) -> bytes:
    return curves(
        lines, x_label="step", y_label=y_label, title=title, marks=marks, image_format=image_format
    )


def _stage_marks(summary: Mapping[str, Any]) -> Marks:
    """Where windows become longer; the first stage begins where the picture does."""
    return [(f"{each['frames']:,}", each["first_step"]) for each in summary["stages"][1:]]


def _loss_name(summary: Mapping[str, Any]) -> str:
    return LOSS_NAMES[summary["weights"]]


def _window_mark(summary: Mapping[str, Any]) -> Marks:
    return [(f"window {summary['window']:,}", float(summary["window"]))]


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
