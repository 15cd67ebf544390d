"""The page of evaluate_all: a table of all models, then the pages of chapters and of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_jobs.reports import chapters, pairs
from ray_jobs.reports.page import render

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
