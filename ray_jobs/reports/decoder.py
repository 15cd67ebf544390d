"""The page of a decoder's evaluation: verdict, table, curves, pictures, sounds, every clip."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray_jobs.reports.examples import Example, panels
from ray_jobs.reports.page import render
from ray_jobs.reports.words import number
from ttt.plots import Curve, curves
from ttt.snac.evaluation.systems import (
    BASELINE,
    CEILING,
    METRIC_NAMES,
    OURS,
    SYSTEM_NAMES,
    with_tricks,
)
from ttt.snac.evaluation.trick_levels import FittedTricks
from ttt.snac.evaluation.verdict_words import level_notes
from ttt.snac.evaluation.visqol import told_by
from ttt.snac.verdict import check_metrics_together, digits


def build_report(
    summary: Mapping[str, Any],
    clips: Sequence[Mapping[str, Any]],
    examples: Sequence[Example],
    history: Sequence[Mapping[str, Any]],
    metrics: Sequence[str] = tuple(METRIC_NAMES),
) -> str:
    """The whole page, one file without a link to anywhere.

    `clips` are the lines of results.jsonl, `history` those of the training run's metrics.jsonl
    (empty without one). Raises ValueError when `metrics` holds LSD or LSD-HF without LSD-LF and
    L1, because LSD alone is won by noise.
    """
    check_metrics_together(metrics)
    decoder, data, verdict = summary["decoder"], summary["data"], summary["verdict"]
    visqol = told_by(summary)
    contradiction = [visqol["sentence"]] if visqol.get("contradicts") else []
    return render(
        "decoder.html.j2",
        "48 kHz decoder: evaluation",
        subtitle=f"{decoder['name']} on {data['name']}: {data['evaluated']} clips, "
        f"{data['seconds']:.0f} s of audio",
        verdict={**verdict, "sentences": [*verdict["sentences"], *contradiction]},
        summary=summary,
        metrics={metric: METRIC_NAMES[metric] for metric in metrics},
        systems=SYSTEM_NAMES,
        notes=[summary["units"]["sentence"], *level_notes(summary["tricks"]), visqol["sentence"]],
        opinions=visqol.get("systems", {}),
        examples=[panels(example) for example in examples],
        training=_training(history),
        clips=_every_clip(clips, summary["tricks"], metrics),
    )


def _training(history: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Name -> picture of the training's curves; nothing without a validation in the history."""
    steps = [line for line in history if line["kind"] == "step"]
    validations = [line for line in history if line["kind"] == "validation"]
    if not validations:
        return {}
    # Not every step is recorded, but phase 1 ends with a validation.
    phase_2 = next((line["step"] for line in steps if line["phase"] == 2), math.inf)
    phase_1_end = max((v["step"] for v in validations if v["step"] < phase_2), default=0)
    marks = [("all layers train", phase_1_end)] if phase_2 < math.inf else []
    at = [line["step"] for line in validations]
    losses = [Curve(label="validation", x=at, y=_numbers(validations, "loss"))]
    if steps:
        x = [line["step"] for line in steps]
        losses.insert(0, Curve(label="training", x=x, y=_numbers(steps, "loss")))
    pictures = {"Loss": curves(losses, x_label="step", y_label="loss", title="Loss", marks=marks)}
    backs = [("back to the best", h["step"]) for h in history if h["kind"] == "turn_back"]
    if taught := [line for line in steps if _JUDGEMENTS[0] in line.get("terms", {})]:
        x, terms = [line["step"] for line in taught], [line["terms"] for line in taught]
        lines = [Curve(label=each, x=x, y=_numbers(terms, each)) for each in _JUDGEMENTS]
        title = "Discriminators"
        pictures[title] = curves(lines, x_label="step", y_label="loss", title=title, marks=backs)
    marks += backs
    for metric in ("lsd", "lsd_lf", "l1"):
        lines = [
            Curve(
                label=name,
                x=at,
                y=_numbers([line["rows"].get(row, {}) for line in validations], metric),
                dashed=row != OURS,
            )
            for row, name in _HISTORY_ROWS.items()
            if any(row in line["rows"] for line in validations)
        ]
        title = METRIC_NAMES[metric]
        pictures[title] = curves(lines, x_label="step", y_label=title, title=title, marks=marks)
    return pictures


_JUDGEMENTS = ("discriminator", "adversarial", "feature")
"""The terms of an adversarial phase."""

_HISTORY_ROWS = {
    OURS: "ours",
    BASELINE: "codec 24 kHz, resampled",
    CEILING: "true 24 kHz, resampled",
}


def _numbers(lines: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [math.nan if line.get(key) is None else float(line[key]) for line in lines]


def _every_clip(
    clips: Sequence[Mapping[str, Any]], tricks: Mapping[str, Any], metrics: Sequence[str]
) -> dict[str, list[list[str]]]:
    """A system's name -> a row per clip that has it."""
    before, here = (
        None if tricks[source] is None else FittedTricks.from_dict(tricks[source])
        for source in ("validation", "here")
    )
    rows = with_tricks([clip["systems"] for clip in clips], before, here)
    return {
        name: [
            [
                clip["clip_id"],
                f"{clip['seconds']:.1f}",
                *(number(row[system].get(metric), digits(metric)) for metric in metrics),
            ]
            for clip, row in zip(clips, rows, strict=True)
            if system in row
        ]
        for system, name in SYSTEM_NAMES.items()
    }
