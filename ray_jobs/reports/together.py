"""Pages of several runs: evaluate_all's, and the one of `--compare`.

The first is a table of all models, then the pages of chapters and of pairs. The other says what
differs first, then the numbers, then what made both runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_jobs.reports import chapters, pairs
from ray_jobs.reports.page import render
from ttt.eval.differences import what_is_compared

_Pictures = Mapping[str, bytes]


def build_report(
    summary: Mapping[str, Any],
    media: tuple[_Pictures, bytes | None],
    chapter_pictures: _Pictures | None = None,
) -> str:
    """The whole page, one file without a link to anywhere.

    Args:
        summary: the summaries of chapters and of pairs by these names; either may be missing.
        media: pictures of the pairs, and the sound of silence, as `pairs.page_values` has them.
        chapter_pictures: as `chapters.page_values` has them.
    """
    heard, asked = summary.get("chapters"), summary.get("pairs")
    subtitles: list[str] = []
    parts: dict[str, Any] = {"chapters": None, "pairs": None}
    if heard is not None:
        subtitles.append(chapters.subtitle(heard))
        parts["chapters"] = chapters.page_values(heard, chapter_pictures)
    if asked is not None:
        subtitles.append(pairs.subtitle(asked))
        parts["pairs"] = pairs.page_values(asked, *media)
    title = "Moshi on chapters and pairs"
    return render("together.html.j2", title, subtitle="; ".join(subtitles), **parts)


def of_chapters(summary: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page from `summarize_comparison`'s summary, with its pictures' PNGs."""
    shown = chapters.comparison_values(summary, pictures)
    return _comparison_page("Chapters", summary, chapters=shown, pairs=None)


def of_pairs(summary: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The same of pairs."""
    shown = pairs.comparison_values(summary, pictures)
    return _comparison_page("Pairs", summary, chapters=None, pairs=shown)


def side_name(side: Mapping[str, Any]) -> str:
    """`ttt of runs/one`, of one entry of `sides`."""
    return f"{side.get('model') or side['key']} of {side['run']}"


def _comparison_page(subject: str, summary: Mapping[str, Any], **values: Any) -> str:
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
