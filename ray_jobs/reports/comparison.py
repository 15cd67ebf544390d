"""The page of `--compare`: what differs first, then the numbers, then what made both runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_jobs.reports import chapters, pairs
from ray_jobs.reports.page import render
from ttt.eval.differences import what_is_compared


def of_chapters(summary: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page from `summarize_comparison`'s summary, with its pictures' PNGs."""
    shown = chapters.comparison_values(summary, pictures)
    return _page("Chapters", summary, chapters=shown, pairs=None)


def of_pairs(summary: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The same of pairs."""
    shown = pairs.comparison_values(summary, pictures)
    return _page("Pairs", summary, chapters=None, pairs=shown)


def side_name(side: Mapping[str, Any]) -> str:
    """`ttt of runs/one`, of one entry of `sides`."""
    return f"{side.get('model') or side['key']} of {side['run']}"


def _page(subject: str, summary: Mapping[str, Any], **values: Any) -> str:
    (compared,) = summary["comparisons"]
    named = zip(("first", "second"), summary["sides"], strict=True)
    return render(
        "comparison.html.j2",
        f"{subject}: {what_is_compared(compared['differs'])}",
        subtitle=f"{compared['second']} minus {compared['first']}",
        summary=summary,
        compared=compared,
        sides=[(id_, side_name(side), side["described"]) for id_, side in named],
        **values,
    )
