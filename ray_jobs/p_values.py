"""p-values as text and as cells, each beside the smallest that as many units can reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_jobs import report
from ray_jobs.report import Markup

LEAST_EXPLAINED = (
    "Least: what p would be if all those that differ did so to one side. Where it is 0.05 or more, "
    "no result of so few can be called significant."
)
"""For the note below a table with `p_cells`."""


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


def p_cells(row: Mapping[str, Any]) -> list[Markup]:
    """Cells of p and of p after Holm, the least possible small below each."""
    return [
        _cell(row["p_wilcoxon"], row.get("p_least")),
        _cell(row["p_holm"], row.get("p_holm_least")),
    ]


def _cell(p: float | None, least: float | None) -> Markup:
    below = (
        ""
        if p is None or least is None
        else report.tag("div", f"least {_shown(least)}", class_="note")
    )
    return Markup(report.tag("div", _shown(p)) + below)


def _shown(p: float | None) -> str:
    if p is None:
        return "–"
    return f"{p:.4f}" if p >= 1e-4 else "< 0.0001"
