"""The page of a chapter evaluation: verdict, curves, tables, every chapter, what it cannot tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ray_jobs import report
from ray_jobs.chapter_facts import (
    caveats,
    cell,
    differences_table,
    effort,
    equivalence_words,
    every_chapter,
    held_to_stepping,
    interval_words,
    left_out,
    note,
    number,
    origin,
    paragraph,
    words,
)
from ray_jobs.p_values import LEAST_EXPLAINED, p_cells, p_words
from ray_jobs.report import Markup
from ttt.eval.chapter_plots import (
    LOSS_NAMES,
    activity_plot,
    difference_plot,
    loss_plot,
    shown_losses,
)
from ttt.eval.run_differences import only_models_differ, what_is_compared


def build_report(summary: Mapping[str, Any]) -> str:
    """The whole page from `rescore`'s summary, one file without a link to anywhere."""
    title = "Moshi over whole chapters"
    return report.page(title, *sections(summary), subtitle=subtitle(summary))


def subtitle(summary: Mapping[str, Any]) -> str:
    """Which models heard what."""
    models = summary["models"]
    counted = next(iter(models.values()))
    return (
        f"{_listed(models)} on {counted['chapters']} chapters by {counted['speakers']} "
        f"speaker{'s' * (counted['speakers'] != 1)}, {counted['frames']:,} frames"
    )


def sections(summary: Mapping[str, Any]) -> list[Markup]:
    """All of the page below its heading."""
    run, models = summary["run"], summary["models"]
    return [
        *(
            report.callout("bad", "Not a valid measurement", paragraph(text))
            for text in run["warnings"]
        ),
        *(verdict(summary, compared) for compared in summary["comparisons"]),
        _tiles(summary),
        curves(summary),
        _positions(summary),
        _slopes(summary),
        *(comparison(summary, compared) for compared in summary["comparisons"]),
        _utilisation(summary),
        *_activity(summary),
        caveats(),
        *held_to_stepping(models),
        effort(models),
        every_chapter(summary),
        *left_out(models),
        origin(run),
    ]


def verdict(summary: Mapping[str, Any], compared: Mapping[str, Any]) -> Markup:
    """What the paired difference beyond the window says, and what else than models differs."""
    weights = summary["run"]["summary"]["weights"]
    row = compared["losses"][weights]["measures"]["beyond_window"]
    second, first = compared["second"], compared["first"]
    if row["mean"] is None:
        kind, heading = "mixed", "No chapter is longer than the attention window"
    elif row["low"] is None:
        kind, heading = "mixed", f"{second} against {first}: too few speakers to tell"
    elif row["high"] < 0:
        kind, heading = "good", f"{second} has less loss than {first} beyond the window"
    elif row["low"] > 0:
        kind, heading = "bad", f"{second} has more loss than {first} beyond the window"
    else:
        kind, heading = "mixed", f"{second} and {first} cannot be told apart beyond the window"
    controls = {model["model"]: model["controls"] for model in summary["run"]["models"]}
    if controls[second] != controls[first] or not only_models_differ(compared["differs"]):
        kind = "mixed"  # A control or another setting explains; less loss is then no merit.
    sentences = [f"Paired difference of the {LOSS_NAMES[weights]}: {words(row, 4)} nats."]
    if row["p_wilcoxon"] is not None:
        speakers = f"Wilcoxon on {row['speakers']} speakers' means"
        sentences.append(f"{speakers}: {p_words(row)}.")
    if compared["left_out"]:
        sentences.append(f"{compared['left_out']} results of one model only are left out of it.")
    if not only_models_differ(compared["differs"]):
        what = what_is_compared(compared["differs"])
        sentences.insert(0, f"{what}: the difference need not be the models'.")
    if (found := compared["losses"][weights]["equivalence"]) is not None:
        sentences.append(equivalence_words(found, summary["models"][second]["settled_from"]))
    return report.callout(kind, heading, *(paragraph(sentence) for sentence in sentences))


def _tiles(summary: Mapping[str, Any]) -> Markup:
    weights = summary["run"]["summary"]["weights"]
    boxes = []
    for name, model in summary["models"].items():
        measures = model["losses"][weights]["measures"]
        beyond, slope = measures["beyond_window"], measures["slope_per_doubling"]
        boxes += [
            (
                f"{name}: loss beyond the window",
                number(beyond["mean"], 3),
                interval_words(beyond, 3),
            ),
            (f"{name}: change per doubling", number(slope["mean"], 4), interval_words(slope, 4)),
        ]
    return report.tiles(boxes)


def curves(summary: Mapping[str, Any]) -> Markup:
    """The loss of every model along the chapter."""
    if not any(m["losses"]["moshi"]["curve"]["frame"] for m in summary["models"].values()):
        return report.section(
            "Loss along the chapter", paragraph("No chapter fills a bin."), id_="curves"
        )
    pictures = [
        report.picture(
            loss_plot(summary, loss, "png"),
            f"{LOSS_NAMES[loss]} against position for {', '.join(summary['models'])}",
        )
        for loss in shown_losses(summary)
    ]
    least = [
        m["losses"]["moshi"]["balanced_curve"]["min_frames"] for m in summary["models"].values()
    ]
    explained = (
        f"The longer half of the chapters ({min(n for n in least if n is not None):,} frames or "
        "more), the same ones at every point. Bands: 95 %, by speaker; no band with "
        "fewer than five speakers. Dotted: how far attention reaches."
    )
    grid = report.tag("div", *pictures[1:], class_="pair")
    return report.section(
        "Loss along the chapter", pictures[0], grid, note(explained), id_="curves"
    )


def _positions(summary: Mapping[str, Any]) -> Markup:
    settings = summary["run"]["summary"]
    header = ["Model", *(f"{position:,}" for position in settings["positions"])]
    parts = []
    for loss in shown_losses(summary):
        rows = [
            [name, *(cell(entry, 3) for entry in model["losses"][loss]["positions"].values())]
            for name, model in summary["models"].items()
        ]
        parts += [report.tag("h3", LOSS_NAMES[loss]), report.table(header, rows)]
    explained = (
        f"Means over {settings['window_frames']:,} frames around the position, with the number "
        "of chapters that reach it; a dash where none does. Rows of different n hold different "
        "chapters."
    )
    return report.section("Loss at positions", *parts, note(explained), id_="positions")


def _slopes(summary: Mapping[str, Any]) -> Markup:
    rows = []
    for loss in shown_losses(summary):
        for name, model in summary["models"].items():
            measures = model["losses"][loss]["measures"]
            rows.append(
                [
                    f"{name}, {loss}",
                    cell(measures["slope_per_frame"], 3, scale=1e6),
                    cell(measures["slope_per_doubling"], 4),
                ]
            )
    header = ["Model and loss", "per million frames", "per doubling of the position"]
    starts = sorted({model["settled_from"] for model in summary["models"].values()})
    explained = (
        f"Least squares per chapter from frame {' or '.join(f'{n:,}' for n in starts)} on, in "
        "nats; below 0 the loss is lower late than early, and start-up that reaches so far falls "
        "as learning does. Chapters weigh by what their slope knows (frames cubed), and no "
        "speaker more than twice the mean speaker."
    )
    return report.section("Slopes", report.table(header, rows), note(explained), id_="slopes")


def comparison(
    summary: Mapping[str, Any], compared: Mapping[str, Any], *, differs: bool = True
) -> Markup:
    """Two models of a summary: tables and curves, and first what `differs` between them."""
    parts = [differences_table(compared)] if differs else []
    for loss in shown_losses(summary):
        measures = compared["losses"][loss]["measures"]
        rows = [
            [
                _MEASURES.get(name) or f"at {int(name.removeprefix('at_')):,}",
                cell(row, 3, scale=1e6) if name == "slope_per_frame" else cell(row, 4),
                *p_cells(row),
            ]
            for name, row in measures.items()
        ]
        header = ["Where", f"{compared['second']} minus {compared['first']}", "p", "p (Holm)"]
        parts += [report.tag("h3", LOSS_NAMES[loss]), report.table(header, rows)]
        if compared["losses"][loss]["curve"]["frame"]:
            png = difference_plot(summary, compared, loss, "png")
            parts.append(report.picture(png, f"difference of the {LOSS_NAMES[loss]} by position"))
    explained = (
        "Paired: the same chapter, window and codes. p: Wilcoxon's signed-rank test on speakers' "
        "mean differences, with five speakers or more; Holm's adjustment covers one loss's table. "
        f"{LEAST_EXPLAINED}"
    )
    title = f"{compared['second']} against {compared['first']}"
    id_ = f"compare-{compared['second'].replace(' ', '-')}"
    return report.section(title, *parts, note(explained), id_=id_)


_MEASURES = {
    "mean": "whole chapter",
    "beyond_window": "beyond the window",
    "slope_per_frame": "slope, per million frames",
}


def _utilisation(summary: Mapping[str, Any]) -> Markup:
    weights = summary["run"]["summary"]["weights"]
    rows = []
    for name, model in summary["models"].items():
        used = model["losses"][weights]["utilisation"]
        rows.append(
            [
                name,
                cell(used["gain_within_window"], 4),
                cell(used["gain_beyond_window"], 4),
                cell(used["share_beyond_window"], 2),
            ]
        )
    header = ["Model", "gained within the window", "gained beyond it", "share beyond"]
    explained = (
        "How far the loss falls from a chapter's first frames to the window's last, from there to "
        "the chapter's last, and the second part's share of the whole."
    )
    return report.section(
        "Context used", report.table(header, rows), note(explained), id_="context"
    )


def _activity(summary: Mapping[str, Any]) -> Iterator[Markup]:
    for name, model in summary["models"].items():
        if model["activity"]:
            png = activity_plot(summary, name, "png")
            picture = report.picture(png, f"change of the fast weights of {name} by position")
            explained = (
                "Measured on the state that learns, relative to where it starts; parameters stay."
            )
            yield report.section(
                f"TTT activity: {name}", picture, note(explained), id_=f"activity-{name}"
            )


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
