"""The page of `--compare`: what differs first, then the numbers, then what made both runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray_jobs.reports import chapters, pairs, provenance
from ray_jobs.reports.page import render
from ttt.eval.run_differences import what_is_compared


def of_chapters(summary: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page from `ttt.eval.rescore.summarize_comparison`'s summary, with its pictures' PNGs."""
    facts = [provenance.of_chapters(side["described"]) for side in summary["sides"]]
    shown = chapters.comparison_values(summary, pictures)
    return _page("Chapters", summary, facts, chapters=shown, pairs=None)


def of_pairs(summary: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The same of pairs."""
    facts = [provenance.of_pairs(side["described"]) for side in summary["sides"]]
    shown = pairs.comparison_values(summary, pictures)
    return _page("Pairs", summary, facts, chapters=None, pairs=shown)


def side_name(side: Mapping[str, Any]) -> str:
    """`ttt of runs/one`, of one entry of `sides`."""
    return f"{side.get('model') or side['key']} of {side['run']}"


def _page(
    subject: str, summary: Mapping[str, Any], facts: Sequence[provenance.Facts], **values: Any
) -> str:
    (compared,) = summary["comparisons"]
    sides = zip(("first", "second"), map(side_name, summary["sides"]), facts, strict=True)
    return render(
        "comparison.html.j2",
        f"{subject}: {what_is_compared(compared['differs'])}",
        subtitle=f"{compared['second']} minus {compared['first']}",
        summary=summary,
        compared=compared,
        sides=list(sides),
        **values,
    )
