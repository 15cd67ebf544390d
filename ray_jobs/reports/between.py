"""The page of several decoders on the same clips: verdicts, one table, pictures, every clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray_jobs.reports.examples import PANELS, Example, panels
from ray_jobs.reports.listening import residual_words
from ray_jobs.reports.page import render
from ray_jobs.reports.words import Cell, counted, described, number
from ttt.snac.evaluation.between import against_words
from ttt.snac.evaluation.systems import BASELINE, CEILING, METRIC_NAMES, TRUE
from ttt.snac.verdict import check_metrics_together, digits


def build_report(
    summary: Mapping[str, Any],
    clips: Sequence[Mapping[str, Any]],
    examples: Sequence[Example],
    preference: Mapping[str, Any] | None = None,
) -> str:
    """The whole page; its links lead to the decoders' own reports and the listening page beside it.

    `clips` have clip_id, seconds and systems, whose keys are the decoders' letters; `preference` is
    what listeners said, where they were asked.
    """
    check_metrics_together(METRIC_NAMES)
    letters, data = list(summary["decoders"]), summary["data"]
    names = {**PANELS, **{letter: f"Decoder {letter}" for letter in letters}}
    shown = {name: names[name] for name in (TRUE, *letters, BASELINE, CEILING)}
    return render(
        "between.html.j2",
        "48 kHz decoders compared",
        subtitle=f"{len(letters)} decoders on {data['name']}: {counted(data['compared'], 'clip')}, "
        f"{data['seconds']:.0f} s of audio",
        summary=summary,
        metrics=METRIC_NAMES,
        tiles=_tiles(summary["comparisons"]),
        table_rows=[_row(summary, metric) for metric in METRIC_NAMES],
        letters=letters,
        listening=summary["listening"],
        residual=residual_words(summary["listening"]["residual_lu"]),
        preference=preference,
        examples=[panels(example, shown) for example in examples],
        clips={
            name: [_clip_row(clip, metric, letters) for clip in clips]
            for metric, name in METRIC_NAMES.items()
        },
    )


def _tiles(comparisons: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """What each comparison is told by at a glance: a name, and its interval."""
    found = []
    for each in comparisons:
        by_metric = {row["metric"]: row for row in each["metrics"]}
        for metric in ("lsd", "lsd_hf", "env_r") if len(comparisons) == 1 else ("lsd",):
            row = by_metric[metric]
            sign = "/" if row["as_ratio"] else "-"
            pair = f"{each['second']} {sign} {each['first']}"
            found.append((f"{METRIC_NAMES[metric]}, {pair}", row["interval"]))
    return found


def _row(summary: Mapping[str, Any], metric: str) -> list[Cell]:
    """The metric's name, every decoder's mean, what lies between them, and the two beside."""
    systems = summary["systems"]
    means = [described(systems[letter][metric], metric) for letter in summary["decoders"]]
    beside = [described(systems[name][metric], metric) for name in (BASELINE, CEILING)]
    between = []
    for each in summary["comparisons"]:
        (row,) = (row for row in each["metrics"] if row["metric"] == metric)
        mean, _, rest = against_words(row).partition(" [")
        words = {True: "holds", False: "not shown to hold", None: "no part of the verdict"}
        told = f"[{rest}; " if rest else ""
        between.append((mean, f"{told}{words[row['holds']]}"))
    return [METRIC_NAMES[metric], *means, *between, *beside]


def _clip_row(clip: Mapping[str, Any], metric: str, letters: Sequence[str]) -> list[str]:
    numbers = [number(clip["systems"][each].get(metric), digits(metric)) for each in letters]
    return [clip["clip_id"], f"{clip['seconds']:.1f}", *numbers]
