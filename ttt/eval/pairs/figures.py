"""The pictures of a run over pairs, each as PNG and SVG, from its summary alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from ttt.plots import ImageFormat, estimates

_CHANCE = ("chance", 0.5)


def pair_plots(summary: Mapping[str, Any]) -> dict[str, bytes]:
    """File name -> content: accuracies, their differences, and those of every stratum."""
    plots: dict[str, bytes] = {}
    for image_format in get_args(ImageFormat):
        for name, draw in _pictures(summary).items():
            plots[f"{name}.{image_format}"] = estimates(**draw, image_format=image_format)
    return plots


def _pictures(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> arguments of `estimates`; only of what there are numbers for."""
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
    return pictures


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
