"""The page of an evaluation of pairs: comparisons, accuracies, strata, coverage, origin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_jobs.reports.page import render
from ray_jobs.reports.words import controlled, headline, interval_words, metric_title, number
from ttt.eval.differences import only_models_differ, what_is_compared
from ttt.eval.pairs.find import task_title

POINTS = 100.0
"""Per cent of a share."""
_Summary = Mapping[str, Any]


def build_report(
    summary: _Summary, pictures: Mapping[str, bytes], silence: bytes | None = None
) -> str:
    """The whole page; the arguments are those of `page_values`."""
    shown = page_values(summary, pictures, silence)
    return render("pairs.html.j2", "Moshi on pairs", subtitle=subtitle(summary), pairs=shown)


def subtitle(summary: _Summary) -> str:
    """Who was asked what."""
    tasks = summary["run"]["tasks"]
    pairs = sum(task["pairs"] for task in tasks)
    titles = ", ".join(task_title(task["task"]) for task in tasks)
    return f"{', '.join(summary['runs'])}: {pairs:,} pairs of {titles}"


def page_values(
    summary: _Summary, pictures: Mapping[str, bytes], silence: bytes | None
) -> dict[str, Any]:
    """What pairs.html.j2 calls pairs, from `rescore`'s summary.

    Args:
        pictures: PNGs by the names of `ttt.eval.pairs.figures`.
        silence: FLAC of what the codes of silence sound like; None leaves it out.
    """
    models = {key: run["model"] for key, run in summary["runs"].items()}
    shown = comparison_values(summary, pictures)
    return {**shown, "silence": silence, "controls": controlled(summary, models)}


def comparison_values(summary: _Summary, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    """What of it a page of a comparison wants as well."""
    compared = [each for each in summary["comparisons"] if each["metrics"]]
    return {"summary": summary, "pictures": pictures, "verdicts": [*map(_verdict, compared)]}


def headline_words(summary: _Summary) -> list[str]:
    """A line per model, setting and metric, and per warning."""
    lines = [f"warning: {text}" for text in summary["warnings"]]
    for key, run in summary["runs"].items():
        for name, metric in run["metrics"].items():
            counted = headline(metric)
            accuracy = number(counted["macro"]["mean"], 1, POINTS)
            interval = interval_words(counted["macro"], 1, POINTS)
            ties = f", {counted['ties']:,} ties" if counted["ties"] else ""
            lines.append(f"{key}: {name} {accuracy} ({interval}, {counted['pairs']:,} pairs{ties})")
        for name, task in run["tasks"].items():
            if task["scored"] < task["planned"]:
                lost = task["planned"] - task["scored"]
                lines.append(f"{key}: {lost:,} pairs of {name} have no score, see the report")
    return lines


def _verdict(compared: Mapping[str, Any]) -> dict[str, Any]:
    """Which of the two is right more often, metric by metric."""
    kinds, sentences = set(), []
    for metric in compared["metrics"].values():
        row = headline(metric)["accuracy"]
        if row["mean"] is None or row["low"] is None:
            kind, text = "open", f"cannot be judged ({row['reason']})"
        elif row["low"] > 0:
            kind, text = "more", "right more often"
        elif row["high"] < 0:
            kind, text = "less", "right less often"
        else:
            kind, text = "open", "cannot be told apart"
        kinds.add(kind)
        points = "" if row["mean"] is None else f"{POINTS * row['mean']:+.2f} points, "
        interval = interval_words(row, 2, POINTS)
        sentences.append(f"{metric_title(metric)}: {text}; {points}{interval}.")
    if not only_models_differ(compared["differs"]):
        what = what_is_compared(compared["differs"])
        sentences.insert(0, f"{what}: the difference need not be the models'.")
    judged = {("more",): "good", ("less",): "bad"}
    return {
        "kind": judged.get(tuple(sorted(kinds)), "mixed"),
        "heading": f"{compared['second']} against {compared['first']}",
        "sentences": sentences,
    }
