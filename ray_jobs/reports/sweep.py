"""The page of a sweep: does anything beat the default, what was tried, what mattered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ray_jobs.config import yaml_tree
from ray_jobs.reports.page import render
from ray_jobs.reports.setting_plots import Column, parallel_coordinates, shares
from ttt.plots import Curve, curves


def build_report(summary: Mapping[str, Any]) -> str:
    """The whole page from trials.json, one file without a link to anywhere."""
    trials = summary["trials"]
    states = Counter(trial["state"] for trial in trials)
    return render(
        "sweep.html.j2",
        "48 kHz decoder: sweep",
        subtitle=f"{len(trials)} trials, search {summary['search']}, scheduler "
        f"{summary['scheduler']}, {sum(trial['step'] for trial in trials):,} steps",
        summary=summary,
        default=trials[0],
        best=_best(summary),
        over=states["finished"] + states["stopped"],
        states=", ".join(f"{count} {state}" for state, count in sorted(states.items())),
        shown=_shown,
        losses=_losses(summary),
        parallel=_parallel(summary),
        importance=_importance(summary),
        ranked=sorted(trials, key=lambda trial: (_rank(trial["loss"]), trial["number"])),
    )


def _losses(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The picture of every trial's losses, and what it shows."""
    default, best = summary["trials"][0], _best(summary)
    named = {default["number"]: "default", best["number"]: f"best: trial {best['number']}"}
    if default["number"] == best["number"]:
        named = {default["number"]: "default (best)"}
    # At step 0 all are the same untrained decoder, whose loss would flatten what follows.
    lines = [
        Curve(
            label=named.get(trial["number"], ""),
            x=[step for step, _, _ in points],
            y=[math.nan if loss is None else loss for _, loss, _ in points],
            faint=trial["number"] not in named,
            dashed=trial["number"] == 0,
        )
        for trial in summary["trials"]
        if (points := [point for point in trial["curve"] if point[0] > 0])
    ]
    png = curves(lines, x_label="step", y_label="validation loss", title="Validation loss")
    alt = f"Validation loss by step: {', '.join(named.values())}, and the other trials"
    return {"png": png, "alt": alt}


def _parallel(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The picture of all settings at once, and what it shows."""
    measured = [trial for trial in summary["trials"] if trial["loss"] is not None]
    columns = [
        Column(
            label=key,
            values=[_on_axis(trial["values"][key], space["choices"]) for trial in measured],
            log=space["log"],
        )
        for key, space in summary["space"].items()
    ]
    losses = [trial["loss"] for trial in measured]
    columns.append(Column(label="validation loss", values=losses))
    numbers = [trial["number"] for trial in measured]
    marked = {f"best: trial {summary['best']}": numbers.index(summary["best"])}
    if 0 in numbers and summary["best"] != 0:
        marked["default"] = numbers.index(0)
    png = parallel_coordinates(columns, losses, colour_label="validation loss", marked=marked)
    alt = f"A line per trial across {', '.join(column.label for column in columns)}"
    return {"png": png, "alt": alt}


def _importance(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The share of every key, the largest first, and the picture of those that have one."""
    items = sorted(summary["importance"].items(), key=lambda pair: -(pair[1]["share"] or 0))
    known = {key: item for key, item in items if item["share"] is not None}
    if not known:
        return {"items": items, "png": None}
    png = shares(
        list(known),
        [item["share"] for item in known.values()],
        [item["chance"] for item in known.values()],
        x_label="share of the variance of the losses' ranks",
        reference_label="by chance",
    )
    return {"items": items, "png": png, "alt": f"The share of each key: {', '.join(known)}"}


def _best(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(trial for trial in summary["trials"] if trial["number"] == summary["best"])


def _on_axis(value: Any, choices: Sequence[Any] | None) -> float | str | None:
    """A number or a word; a list or group of keys goes by its place among the choices. In an
    interval null, which can only be the default, has no place."""
    if value is None:
        return None if choices is None else "null"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, list | dict):
        known = list(choices or ())
        return f"choice {known.index(value) + 1}" if value in known else "default"
    return str(value)


def _rank(loss: float | None) -> float:
    return math.inf if loss is None else loss


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else yaml_tree.show(value)
