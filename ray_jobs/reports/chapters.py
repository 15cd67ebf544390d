"""The page of a chapter evaluation: verdict, curves, tables, every chapter, what it cannot tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ray_jobs.reports.page import render
from ray_jobs.reports.words import controlled, equivalence_words, p_words, words
from ttt.eval.config import BEGINNING_FRAMES
from ttt.eval.differences import only_models_differ, what_is_compared
from ttt.eval.figures import LOSS_NAMES, chapter_figures, drawn_pngs, shown_losses


def build_report(summary: Mapping[str, Any], pictures: Mapping[str, bytes] | None = None) -> str:
    """The whole page from `rescore`'s summary; the arguments are those of `page_values`."""
    title, below = "Moshi over whole chapters", subtitle(summary)
    return render(
        "chapters.html.j2", title, subtitle=below, chapters=page_values(summary, pictures)
    )


def subtitle(summary: Mapping[str, Any]) -> str:
    """Which models heard what."""
    models = summary["models"]
    counted = next(iter(models.values()))
    return (
        f"{_listed(models)} on {counted['chapters']} chapters by {counted['speakers']} "
        f"speaker{'s' * (counted['speakers'] != 1)}, {counted['frames']:,} frames"
    )


def page_values(summary: Mapping[str, Any], pictures: Mapping[str, bytes] | None) -> dict[str, Any]:
    """What chapters.html.j2 calls chapters.

    Args:
        pictures: PNGs by the names of `ttt.eval.figures`; None draws them.
    """
    shown = comparison_values(summary, pictures)
    held = controlled(summary, {name: name for name in summary["models"]})
    return {**shown, "beginning_frames": BEGINNING_FRAMES, "controls": held}


def comparison_values(
    summary: Mapping[str, Any], pictures: Mapping[str, bytes] | None
) -> dict[str, Any]:
    """What of it a page of a comparison wants as well."""
    return {
        "summary": summary,
        "pictures": drawn_pngs(chapter_figures(summary)) if pictures is None else pictures,
        "losses": {loss: LOSS_NAMES[loss] for loss in shown_losses(summary)},
        "verdicts": [_verdict(summary, compared) for compared in summary["comparisons"]],
    }


def _verdict(summary: Mapping[str, Any], compared: Mapping[str, Any]) -> dict[str, Any]:
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
    return {"kind": kind, "heading": heading, "sentences": sentences}


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
