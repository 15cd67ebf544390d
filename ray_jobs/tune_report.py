"""The page of a sweep: does anything beat the default, what was tried, what mattered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ray_jobs import report, yaml_tree
from ray_jobs.report import Markup
from ttt.plots import Curve, curves
from ttt.setting_plots import Column, parallel_coordinates, shares


def build_report(summary: Mapping[str, Any]) -> str:
    """The whole page from trials.json, one file without a link to anywhere."""
    verdict, trials = summary["verdict"], summary["trials"]
    parts = [
        report.callout(
            verdict["kind"],
            verdict["heading"],
            *(report.tag("p", sentence) for sentence in verdict["sentences"]),
        ),
        *_ended_early(summary),
        _tiles(summary),
        _settings(summary),
        _losses(summary),
        *_parallel(summary),
        _importance(summary),
        _every_trial(summary),
        _origin(summary),
    ]
    subtitle = (
        f"{len(trials)} trials, search {summary['search']}, scheduler {summary['scheduler']}, "
        f"{sum(trial['step'] for trial in trials):,} steps"
    )
    return report.page("48 kHz decoder: sweep", *parts, subtitle=subtitle)


def _ended_early(summary: Mapping[str, Any]) -> Iterator[Markup]:
    if summary["ended_early"]:
        text = f"{summary['ended_early']}; trials that are not over are marked unfinished."
        yield report.callout("mixed", "The sweep ended early", report.tag("p", text))


def _tiles(summary: Mapping[str, Any]) -> Markup:
    default, best = summary["trials"][0], _best(summary)
    states = Counter(trial["state"] for trial in summary["trials"])
    over = states["finished"] + states["stopped"]
    return report.tiles(
        [
            ("Best validation loss", _number(best["loss"]), f"trial {best['number']}"),
            ("Default's validation loss", _number(default["loss"]), "trial 0"),
            (
                "Trials",
                f"{over} of {len(summary['trials'])}",
                ", ".join(f"{count} {state}" for state, count in sorted(states.items())),
            ),
        ]
    )


def _settings(summary: Mapping[str, Any]) -> Markup:
    default, best = summary["trials"][0], _best(summary)
    keys = dict.fromkeys([*summary["space"], *best["values"]])
    rows = [
        [
            key,
            summary["space"].get(key, {"words": "set by an exploit"})["words"],
            _shown(default["values"].get(key)),
            _shown(best["values"].get(key)),
        ]
        for key in keys
    ]
    header = ["Key", "Space", "Default (trial 0)", f"Best (trial {best['number']})"]
    note = _note("best.yaml beside this page holds the whole configuration of the best trial.")
    return report.section(
        "Settings", report.table(header, rows, numeric=False), note, id_="settings"
    )


def _losses(summary: Mapping[str, Any]) -> Markup:
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
    words = ", ".join(named.values())
    return report.section(
        "Loss curves",
        report.picture(png, f"Validation loss by step: {words}, and the other trials"),
        _note("Grey: the other trials. A line ends where its trial was stopped or ended."),
        id_="losses",
    )


def _parallel(summary: Mapping[str, Any]) -> Iterator[Markup]:
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
    yield report.section(
        "All settings at once",
        report.picture(png, f"A line per trial across {', '.join(c.label for c in columns)}"),
        _note(
            "A line per trial; dark lines have the lower loss. A line has a gap where a scale has "
            "no place for its value (0 on a logarithmic one)."
        ),
        id_="parallel",
    )


def _importance(summary: Mapping[str, Any]) -> Markup:
    items = sorted(summary["importance"].items(), key=lambda pair: -(pair[1]["share"] or 0))
    rows = [
        [
            key,
            "–" if item["share"] is None else f"{item['share']:.0%}",
            "–" if item["chance"] is None else f"{item['chance']:.0%}",
            item["reason"] or f"{item['n']} trials",
        ]
        for key, item in items
    ]
    parts = [report.table(["Key", "Share", "By chance", "From"], rows)]
    known = {key: item for key, item in items if item["share"] is not None}
    if known:
        png = shares(
            list(known),
            [item["share"] for item in known.values()],
            [item["chance"] for item in known.values()],
            x_label="share of the variance of the losses' ranks",
            reference_label="by chance",
        )
        parts.insert(0, report.picture(png, f"The share of each key: {', '.join(known)}"))
    return report.section(
        "What mattered",
        *parts,
        _note(
            "How much of the variance of the losses' ranks lies between the values of a key (the "
            "thirds of a number). A key without effect has the share by chance, on average. "
            "Trials that were stopped count with the loss they had."
        ),
        id_="importance",
    )


def _every_trial(summary: Mapping[str, Any]) -> Markup:
    ranked = sorted(
        summary["trials"],
        key=lambda trial: (math.inf if trial["loss"] is None else trial["loss"], trial["number"]),
    )
    handed_on = any(trial["copied"] for trial in ranked)
    rows = [
        [
            str(trial["number"]),
            _number(trial["loss"]),
            trial["state"],
            str(trial["epochs"]),
            f"{trial['step']:,}",
            *(_shown(trial["values"][key]) for key in summary["space"]),
            *([_copies(trial)] if handed_on else []),
        ]
        for trial in ranked
    ]
    header = ["Trial", "Loss", "State", "Epochs", "Steps", *summary["space"]]
    parts = [report.table([*header, *(["Went on from"] if handed_on else [])], rows)]
    wrong = [
        [str(trial["number"]), trial["state"], trial["why"]]
        for trial in ranked
        if trial["state"] in ("diverged", "failed")
    ]
    if wrong:
        parts.append(report.table(["Trial", "State", "Why"], wrong, numeric=False))
    return report.section("Every trial", *parts, id_="trials")


def _copies(trial: Mapping[str, Any]) -> str:
    return ", ".join(f"trial {copy['from']} at step {copy['step']}" for copy in trial["copied"])


def _origin(summary: Mapping[str, Any]) -> Markup:
    made = summary["provenance"]
    data = made["config"]["data"]
    rows = [
        ["Cache", data["train"]],
        ["Validation", f"{summary['validation_windows']} windows, the same for all trials"],
        ["Configuration", made["config_digest"]],
        ["Commit", str(made["git_commit"])],
        ["Made", made["created"]],
        ["Versions", ", ".join(f"{name} {number}" for name, number in made["versions"].items())],
    ]
    facts = [Markup(report.tag("dt", name) + report.tag("dd", text)) for name, text in rows]
    return report.section("Where these numbers come from", report.tag("dl", *facts), id_="origin")


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


def _number(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.4f}"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else yaml_tree.show(value)


def _note(text: str) -> Markup:
    return report.tag("p", text, class_="note")
