"""The page of a decoder's evaluation: verdict, table, curves, pictures, sounds, every clip."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_jobs import report
from ray_jobs.report import Markup
from ttt.audio import flac_bytes
from ttt.plots import Curve, curves, spectrograms
from ttt.snac.geometry import TARGET_RATE
from ttt.snac.model_card import digits
from ttt.snac.systems import (
    BASELINE,
    CEILING,
    FOLDING_HISS,
    HISS,
    METRIC_NAMES,
    OURS,
    SYSTEM_NAMES,
    TRUE,
    with_tricks,
)
from ttt.snac.trick_levels import FittedTricks
from ttt.snac.verdict import check_metrics_together, describe_interval
from ttt.snac.verdict_words import level_notes
from ttt.snac.visqol_summary import told_by

_PANEL_NAMES = {
    TRUE: "True 48 kHz",
    OURS: "Ours, 48 kHz",
    BASELINE: "Codec 24 kHz, resampled",
    CEILING: "True 24 kHz, resampled",
}


@dataclass(frozen=True, eq=False)
class Example:
    """A passage of one clip to see and hear."""

    clip_id: str
    place: str
    """Its rank, such as "best of 12", and the number that ranked it."""
    start_seconds: float
    audio: Mapping[str, np.ndarray]
    """TRUE and systems -> int16 [T] at 48 kHz."""


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
    decoder, data, visqol = summary["decoder"], summary["data"], told_by(summary)
    parts = [
        report.callout(
            summary["verdict"]["kind"],
            summary["verdict"]["heading"],
            *(report.tag("p", sentence) for sentence in summary["verdict"]["sentences"]),
            *([report.tag("p", visqol["sentence"])] if visqol.get("contradicts") else []),
        ),
        _tiles(summary),
        _results(summary, metrics),
        *([_examples(examples)] if examples else []),
        *_history(history),
        _every_clip(clips, summary["tricks"], metrics),
        *([_left_out(data)] if data["left_out"] else []),
        _origin(summary),
    ]
    subtitle = (
        f"{decoder['name']} on {data['name']}: {data['evaluated']} clips, "
        f"{data['seconds']:.0f} s of audio"
    )
    return report.page("48 kHz decoder: evaluation", *parts, subtitle=subtitle)


def _tiles(summary: Mapping[str, Any]) -> Markup:
    ratios, data = summary["ratios_to_resampled_decode24"], summary["data"]
    shown = [
        (f"{METRIC_NAMES[metric]}, ours / resampling", ratios[metric]) for metric in _TILE_METRICS
    ]
    for compared in summary["comparisons"]:
        words = _TILE_TRICKS.get((compared["metric"], compared["against"]))
        if words is not None:
            shown.append((words, compared["interval"]))
    return report.tiles(
        [
            *((name, _mean(found), _range(found)) for name, found in shown),
            (
                "Clips measured",
                f"{data['evaluated']} of {data['wanted']}",
                f"coverage {data['coverage']:.0%}",
            ),
        ]
    )


_TILE_METRICS = ("lsd", "lsd_lf", "l1")
_TILE_TRICKS = {
    ("lsd_hf", HISS): "LSD-HF, ours / best hiss",
    ("env_r", FOLDING_HISS): "env-r, ours - best folding + hiss",
}


def _mean(ratio: Mapping[str, Any]) -> str:
    return "–" if ratio["mean"] is None else f"{ratio['mean']:.3f}"


def _range(ratio: Mapping[str, Any]) -> str:
    if ratio["low"] is None:
        return f"no interval: {ratio['reason']}"
    return f"95 % interval {ratio['low']:.3f} to {ratio['high']:.3f}"


def _results(summary: Mapping[str, Any], metrics: Sequence[str]) -> Markup:
    visqol = told_by(summary)
    opinions = visqol.get("systems", {})
    rows = [
        [
            SYSTEM_NAMES[system],
            *(_with_interval(values[metric], digits(metric)) for metric in metrics),
            *([_visqol_cell(opinions, system)] if opinions else []),
        ]
        for system, values in summary["systems"].items()
    ]
    header = ["System", *(METRIC_NAMES[metric] for metric in metrics)]
    header += ["ViSQOL"] if opinions else []
    notes = [
        report.tag("p", note, class_="note")
        for note in (
            summary["units"]["sentence"],
            *level_notes(summary["tricks"]),
            visqol["sentence"],
        )
    ]
    table = report.table(header, rows, caption=_TABLE_NOTE)
    return report.section("Results", table, *notes, id_="results")


def _visqol_cell(opinions: Mapping[str, Any], system: str) -> Markup:
    found = opinions.get(system)
    return Markup("–") if found is None else _with_interval(found, 3)


def _with_interval(interval: Mapping[str, Any], decimals: int) -> Markup:
    """The mean, its interval small below it."""
    mean, _, rest = describe_interval(interval, decimals).partition(" ")
    return Markup(report.tag("div", mean) + report.tag("div", rest, class_="note"))


_TABLE_NOTE = (
    "Mean over clips with its 95 % interval over units. Lower is better, except for env-r, SI-SDR "
    "and ViSQOL. LSD is the log-spectral distance (Hann 2048/512); LSD-LF and LSD-HF are its parts "
    "below and above 12 kHz. env-r is the correlation of band energies over time above "
    "12.6 kHz: it cannot be won by hiss, and does not see the level. LSD alone is won by noise: "
    "read it beside all others, and beside the rows of hiss and folding, which cost nothing."
)


def _examples(examples: Sequence[Example]) -> Markup:
    note = (
        "Clips are chosen by rank of LSD, ours over resampling, so that the worst is shown too. "
        "One dB scale per clip; 0 dB is the loudest point of the true audio."
    )
    shown = [_example(example) for example in examples]
    return report.section(
        "See and hear", report.tag("p", note, class_="note"), *shown, id_="examples"
    )


def _example(example: Example) -> Markup:
    named = {name: example.audio[key] for key, name in _PANEL_NAMES.items()}
    seconds = len(example.audio[TRUE]) / TARGET_RATE
    title = f"{example.clip_id} ({example.place})"
    caption = f"{seconds:.1f} s from second {example.start_seconds:.1f}"
    png = spectrograms(named, TARGET_RATE)
    players = [report.audio(flac_bytes(audio, TARGET_RATE), name) for name, audio in named.items()]
    alt = f"Spectrograms of {example.clip_id}: {', '.join(named)}"
    return report.tag(
        "div",
        report.tag("h3", title),
        report.picture(png, alt, caption=caption),
        report.tag("div", *players, class_="players"),
        class_="example",
    )


def _history(history: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """The section of training curves; nothing without a validation in the history."""
    steps = [line for line in history if line["kind"] == "step"]
    validations = [line for line in history if line["kind"] == "validation"]
    if not validations:
        return []
    # Not every step is recorded, but phase 1 ends with a validation.
    phase_2 = next((line["step"] for line in steps if line["phase"] == 2), math.inf)
    phase_1_end = max((v["step"] for v in validations if v["step"] < phase_2), default=0)
    marks = {"all layers train": phase_1_end} if phase_2 < math.inf else {}
    at = [line["step"] for line in validations]
    losses = [Curve(label="validation", x=at, y=_numbers(validations, "loss"))]
    if steps:
        x = [line["step"] for line in steps]
        losses.insert(0, Curve(label="training", x=x, y=_numbers(steps, "loss")))
    pictures = [curves(losses, x_label="step", y_label="loss", title="Loss", marks=marks)]
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
        pictures.append(curves(lines, x_label="step", y_label=title, title=title, marks=marks))
    names = ("Loss", "LSD", "LSD-LF", "L1")
    figures = [
        report.picture(png, f"{name} by training step")
        for name, png in zip(names, pictures, strict=True)
    ]
    note = report.tag("p", "On the run's own fixed validation windows.", class_="note")
    grid = report.tag("div", *figures, class_="pair")
    return [report.section("Training", note, grid, id_="training")]


_HISTORY_ROWS = {
    OURS: "ours",
    BASELINE: "codec 24 kHz, resampled",
    CEILING: "true 24 kHz, resampled",
}


def _numbers(lines: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [math.nan if line.get(key) is None else float(line[key]) for line in lines]


def _every_clip(
    clips: Sequence[Mapping[str, Any]], tricks: Mapping[str, Any], metrics: Sequence[str]
) -> Markup:
    before, here = (
        None if tricks[source] is None else FittedTricks.from_dict(tricks[source])
        for source in ("validation", "here")
    )
    rows = with_tricks([clip["systems"] for clip in clips], before, here)
    lines = [{**clip, "systems": row} for clip, row in zip(clips, rows, strict=True)]
    header = ["Clip", "Seconds", *(METRIC_NAMES[metric] for metric in metrics)]
    tables = [
        report.details(
            f"{SYSTEM_NAMES[system]}, {len(shown)} clips",
            report.table(header, _clip_rows(shown, system, metrics)),
        )
        for system in SYSTEM_NAMES
        if (shown := [line for line in lines if system in line["systems"]])
    ]
    return report.section("Every clip", *tables, id_="clips")


def _clip_rows(
    clips: Sequence[Mapping[str, Any]], system: str, metrics: Sequence[str]
) -> Iterator[list[str]]:
    for clip in clips:
        values = clip["systems"][system]
        cells = [
            "–" if values.get(metric) is None else f"{values[metric]:.{digits(metric)}f}"
            for metric in metrics
        ]
        yield [clip["clip_id"], f"{clip['seconds']:.1f}", *cells]


def _left_out(data: Mapping[str, Any]) -> Markup:
    rows = [[item["clip_id"], item["reason"]] for item in data["left_out"]]
    return report.section(
        "Left out", report.table(["Clip", "Reason"], rows, numeric=False), id_="left-out"
    )


def _origin(summary: Mapping[str, Any]) -> Markup:
    decoder, made, data = summary["decoder"], summary["provenance"], summary["data"]
    rows = [
        ["Decoder", f"{decoder['name']} ({decoder['source']})"],
        ["Decoder weights, sha256", decoder["sha256"]],
        ["Codec", decoder["codec"]],
        ["Codec weights, sha256", decoder["codec_sha256"]],
        ["Data", f"{data['name']} ({data['kind']})"],
        ["Bootstrap", "{resamples} resamples, seed {seed}".format(**summary["bootstrap"])],
        ["Configuration", made["config_digest"]],
        ["Commit", str(made["git_commit"])],
        ["Made", made["created"]],
        ["Versions", ", ".join(f"{name} {number}" for name, number in made["versions"].items())],
    ]
    facts = [(report.tag("dt", name) + report.tag("dd", text)) for name, text in rows]
    return report.section(
        "Where these numbers come from",
        report.tag("dl", *map(Markup, facts)),
        id_="origin",
    )
