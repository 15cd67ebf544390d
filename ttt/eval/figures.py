"""The figures of evaluations, each as PNG and SVG, from their summaries alone.

Of chapters: curves of the loss by position, paired differences, TTT activity. Of pairs:
accuracies, their differences, and those of every stratum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, get_args

from ttt.plots import Curve, ImageFormat, curves, estimates

Figures = Mapping[str, Callable[..., bytes]]
"""Name -> what draws it, given `image_format`."""
LOSS_NAMES = {
    "moshi": "loss (semantic 100 : acoustic 1)",
    "uniform": "loss (mean of 8 codebooks)",
    "semantic": "semantic loss (codebook 0)",
    "acoustic": "acoustic loss (codebooks 1-7)",
}
_CHANCE = ("chance", 0.5)


def drawn_files(figures: Figures) -> dict[str, bytes]:
    """File name -> content of every figure, in both formats."""
    return {
        f"{name}.{image_format}": draw(image_format=image_format)
        for image_format in get_args(ImageFormat)
        for name, draw in figures.items()
    }


def drawn_pngs(figures: Figures, names: Collection[str] | None = None) -> dict[str, bytes]:
    """Name -> PNG of all figures, or of those that are named."""
    return {
        name: draw(image_format="png")
        for name, draw in figures.items()
        if names is None or name in names
    }


def shown_losses(summary: Mapping[str, Any]) -> list[str]:
    """The headline loss, then semantic and acoustic apart."""
    return [summary["run"]["summary"]["weights"], "semantic", "acoustic"]


def chapter_figures(summary: Mapping[str, Any]) -> Figures:
    """Loss curves, paired differences, TTT activity; only of what there are numbers for."""
    plots: dict[str, Callable[..., bytes]] = {}
    for loss in shown_losses(summary):
        if any(model["losses"][loss]["curve"]["frame"] for model in summary["models"].values()):
            plots[f"loss_{loss}"] = partial(_loss, summary, loss)
        for compared in summary["comparisons"]:
            if compared["losses"][loss]["curve"]["frame"]:
                name = f"difference_{compared['second']}_{loss}"
                plots[name] = partial(_difference, summary, compared, loss)
    for name, model in summary["models"].items():
        if model.get("activity"):
            plots[f"activity_{name}"] = partial(_activity, summary, name)
    return plots


def pair_figures(summary: Mapping[str, Any]) -> dict[str, partial[bytes]]:
    """Accuracies, differences and strata; only of what there are numbers for."""
    metrics = list(
        dict.fromkeys(name for run in summary["runs"].values() for name in run["metrics"])
    )
    pictures: dict[str, dict[str, Any]] = {}
    if metrics:
        pictures["accuracy"] = _accuracy(summary, metrics)
    if differences := _differences(summary):
        pictures["difference"] = differences
    for metric in metrics:
        if strata := _strata(summary, metric):
            pictures[f"strata_{metric}"] = strata
    return {name: partial(estimates, **drawn) for name, drawn in pictures.items()}


def _loss(summary: Mapping[str, Any], loss: str, image_format: ImageFormat) -> bytes:
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


def _difference(
    summary: Mapping[str, Any],
    compared: Mapping[str, Any],
    loss: str,
    image_format: ImageFormat,
) -> bytes:
    """The paired difference of two models against position; below 0 the second has less loss.

    As in `_loss`, the same chapters stand behind every point.
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


def _activity(summary: Mapping[str, Any], name: str, image_format: ImageFormat) -> bytes:
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


def _window_marks(models: Any) -> list[tuple[str, float]]:
    contexts = sorted({model["context"] for model in models})
    return [(f"window {context:,}", float(context)) for context in contexts]


def _accuracy(summary: Mapping[str, Any], metrics: list[str]) -> dict[str, Any]:
    return {
        "rows": metrics,
        "series": {
            key: [_estimate(_headline(run["metrics"].get(name)), "macro") for name in metrics]
            for key, run in summary["runs"].items()
        },
        "x_label": "accuracy",
        "reference": _CHANCE,
    }


def _differences(summary: Mapping[str, Any]) -> dict[str, Any]:
    compared = [each for each in summary["comparisons"] if each["metrics"]]
    if not compared:
        return {}
    rows = list(dict.fromkeys(name for each in compared for name in each["metrics"]))
    return {
        "rows": rows,
        "series": {
            f"{each['second']} minus {each['first']}": [
                _estimate(_headline(each["metrics"].get(name)), "accuracy") for name in rows
            ]
            for each in compared
        },
        "x_label": "difference of accuracy",
        "reference": ("no difference", 0.0),
    }


def _strata(summary: Mapping[str, Any], metric: str) -> dict[str, Any]:
    of_runs = {
        key: {
            f"{stratum}: {group}": counted
            for stratum, groups in run["metrics"][metric]["strata"].items()
            for group, counted in groups.items()
        }
        for key, run in summary["runs"].items()
        if metric in run["metrics"]
    }
    rows = list(dict.fromkeys(row for run in of_runs.values() for row in run))
    if not rows:
        return {}
    return {
        "rows": rows,
        "series": {
            key: [_estimate(run.get(row), "macro") for row in rows] for key, run in of_runs.items()
        },
        "x_label": "accuracy",
        "reference": _CHANCE,
        "title": metric,
    }


def _headline(metric: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return None if metric is None else metric["scores"][metric["score"]]


def _estimate(counted: Mapping[str, Any] | None, name: str) -> tuple[float, float, float]:
    """(mean, low, high); NaN for what there is not."""
    interval = counted[name] if counted else {}
    mean, low, high = (
        math.nan if interval.get(edge) is None else interval[edge]
        for edge in ("mean", "low", "high")
    )
    return mean, low, high
