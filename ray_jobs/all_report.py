"""The page of evaluate_all: a table of all models, then the pages of chapters and of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_jobs import chapter_report, pair_report, report
from ray_jobs.chapter_facts import cell, note
from ray_jobs.report import Markup
from ttt.eval.chapter_plots import LOSS_NAMES


def build_report(
    summary: Mapping[str, Any], media: tuple[Mapping[str, bytes], bytes | None]
) -> str:
    """The whole page, one file without a link to anywhere.

    Args:
        summary: the summaries of chapters and of pairs by these names; either may be missing.
        media: pictures of the pairs, and the sound of silence, as `pair_report.sections` has them.
    """
    chapters, pairs = summary.get("chapters"), summary.get("pairs")
    parts = [_overview(chapters, pairs)]
    subtitles = []
    if chapters is not None:
        subtitles.append(chapter_report.subtitle(chapters))
        parts += report.part("Chapters", *chapter_report.sections(chapters), id_="part-chapters")
    if pairs is not None:
        subtitles.append(pair_report.subtitle(pairs))
        parts += report.part("Pairs", *pair_report.sections(pairs, *media), id_="part-pairs")
    return report.page("Moshi on chapters and pairs", *parts, subtitle="; ".join(subtitles))


def _overview(chapters: Mapping[str, Any] | None, pairs: Mapping[str, Any] | None) -> Markup:
    """A row per model, and per setting of the streams under which pairs were scored."""
    tables = []
    if chapters is not None:
        weights = chapters["run"]["summary"]["weights"]
        rows = []
        for name, model in chapters["models"].items():
            measures = model["losses"][weights]["measures"]
            shown = [cell(measures[key], 4) for key in ("mean", "beyond_window")]
            rows.append([name, *shown, cell(measures["slope_per_doubling"], 4)])
        header = ["Chapters", "whole chapter", "beyond the window", "per doubling"]
        tables += [report.table(header, rows), note(f"Nats: {LOSS_NAMES[weights]}.")]
    if pairs is not None:
        tables.append(pair_report.accuracy_table(pairs["runs"]))
    return report.section("All at once", *tables, id_="overview")
