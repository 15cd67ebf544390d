"""Numbers as text: intervals, p-values beside the smallest possible, what was held to stepping.

For pages and terminals. A cell of a table is a text, or a text and a small one below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttt.eval.pairs.find import task_title
from ttt.snac.verdict import describe_interval, digits

Cell = str | tuple[str, str]


def number(value: float | None, digits: int, scale: float = 1.0) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value * scale:.{digits}f}"


def counted(count: int, noun: str) -> str:
    """`1 span` or `1,200 spans`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def words(interval: Mapping[str, Any], digits: int) -> str:
    """The mean with its interval in brackets."""
    return f"{number(interval['mean'], digits)} ({interval_words(interval, digits)})"


def interval_words(interval: Mapping[str, Any], digits: int, scale: float = 1.0) -> str:
    """The interval, or why there is none."""
    if interval["low"] is None:
        return f"no interval: {interval['reason']}"
    low, high = (interval[edge] * scale for edge in ("low", "high"))
    return f"95 % interval {low:.{digits}f} to {high:.{digits}f}"


def cell(interval: Mapping[str, Any], digits: int, scale: float = 1.0) -> Cell:
    """The mean, its interval and n small below it."""
    if interval["mean"] is None:
        return "–", interval["reason"]
    n = f"n = {interval['n']}" + (f" ({interval['reason']})" if interval["reason"] else "")
    if interval["low"] is not None:
        low, high = (interval[edge] * scale for edge in ("low", "high"))
        n = f"{low:.{digits}f} to {high:.{digits}f}, {n}"
    return number(interval["mean"], digits, scale), n


def described(interval: Mapping[str, Any], metric: str) -> Cell:
    """The mean of a decoder's metric, its interval small below it; or that there is none."""
    text = describe_interval(interval, digits(metric))
    if interval["mean"] is None:
        return text
    mean, _, rest = text.partition(" ")
    return mean, rest


def metric_title(metric: Mapping[str, Any]) -> str:
    """The benchmark made of pairs, and its split where it has several."""
    title = task_title(metric["task"])
    return title if metric["split"] == "all" else f"{title} {metric['split']}"


def headline(metric: Mapping[str, Any]) -> Mapping[str, Any]:
    """The score that was chosen beforehand."""
    return metric["scores"][metric["score"]]


def p_words(row: Mapping[str, Any]) -> str:
    """Both p-values, and both as small as they could be; empty where there is no test."""
    if row["p_wilcoxon"] is None:
        return ""
    text = f"p = {row['p_wilcoxon']:.3g}, {row['p_holm']:.3g} after Holm"
    least, after_holm = row.get("p_least"), row.get("p_holm_least")
    if least is None or after_holm is None:
        return text
    text += f" (least possible: {least:.2g}, {after_holm:.2g} after Holm"
    return text + (", too few to reach 0.05)" if after_holm >= 0.05 else ")")


def p_cells(row: Mapping[str, Any]) -> list[Cell]:
    """Cells of p and of p after Holm, the least possible small below each."""
    return [
        _p_cell(row["p_wilcoxon"], row.get("p_least")),
        _p_cell(row["p_holm"], row.get("p_holm_least")),
    ]


def equivalence_words(found: Mapping[str, Any], settled_from: int) -> str:
    """Whether two models differ by less than a margin that was set beforehand."""
    margin = f"{found['margin']:g} nats"
    difference = f"mean difference from frame {settled_from:,} on: {words(found, 5)} nats"
    if found["equivalent"]:
        return f"Equivalent within {margin}: the whole interval lies inside; {difference}."
    why = "there is no interval" if found["equivalent"] is None else "the interval reaches beyond"
    return f"Not shown to be equivalent within {margin}: {why}; {difference}."


def controlled(summary: Mapping[str, Any], models: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """The comparisons of a control with the model that it controls.

    Args:
        models: name of records -> name of the model, for comparisons name records.
    """
    controls = {model["model"]: model["controls"] for model in summary["run"]["models"]}
    return [
        each
        for each in summary["comparisons"]
        if controls[models[each["second"]]] != controls[models[each["first"]]]
    ]


def stepped_frames(held: Mapping[str, Any]) -> str:
    """Which frames of a model's `verification` were compared."""
    spans = f"{held['frames']:,} frames in random spans"
    if "beginning_frames" not in held:
        return spans
    return f"{held['beginning_frames']:,} frames from the chapters' beginnings and {spans}"


def largest_difference(held: Mapping[str, Any]) -> str:
    """The largest difference to stepping in nats, of a model's `verification`."""
    if not held["groups"]:
        return "–"
    largest = held["largest_nll_difference"]
    return "not a number" if largest is None else f"{largest:.2g}"


def not_held(held: Mapping[str, Any]) -> list[str]:
    """The groups of a model's `verification` that could not be compared, with reasons."""
    return [f"{', '.join(each['chapters'])}: {each['reason']}" for each in held["unverified"]]


def _p_cell(p: float | None, least: float | None) -> Cell:
    return _p(p) if p is None or least is None else (_p(p), f"least {_p(least)}")


def _p(p: float | None) -> str:
    if p is None:
        return "–"
    return f"{p:.4f}" if p >= 1e-4 else "< 0.0001"
