"""Pages of a training in Moshi, and of one beside its control: verdict, curves, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ray_jobs.reports.page import render
from ray_jobs.reports.words import counted, words
from ttt.eval.differences import entries
from ttt.eval.figures import LOSS_NAMES, drawn_pngs
from ttt.eval.training.figures import (
    LAYER_ROWS,
    WINDOW_SIDES,
    comparison_figures,
    training_figures,
)
from ttt.moshi.training.config import MATCHED_WITHIN_PERCENT

_OWN_PLACES = ("run", "stages")
"""Keys of a configuration that a page shows elsewhere."""
MEASURES = {
    "beyond_window": "beyond the window",
    "in_window": "inside the window",
    "mean": "whole span",
    "semantic": "beyond, semantic (codebook 0)",
    "acoustic": "beyond, acoustic (codebooks 1-7)",
}


def build_report(summary: Mapping[str, Any]) -> str:
    """The whole page of a run from its summary with its `verdict`, without a link to anywhere."""
    return render(
        "training.html.j2",
        "Training in Moshi",
        subtitle=f"{PurePath(summary['run']).name}: step {summary['step']:,} of "
        f"{summary['total_steps']:,}, {_parameters(summary['trained'])} parameters",
        summary=summary,
        loss=LOSS_NAMES[summary["weights"]],
        best=_at(summary, summary["best_step"]),
        groups=_groups(summary["trained"]),
        pictures=drawn_pngs(training_figures(summary)),
        layers=_layers(summary),
        layer_rows=LAYER_ROWS,
        sides=WINDOW_SIDES,
        heard=_spans_words(summary["spans"]["base"], summary["plan"]),
        settings=_settings(summary["provenance"]),
    )


def build_comparison(summary: Mapping[str, Any]) -> str:
    """The whole page of a run beside its control, from `compare_trainings` with its `verdict`."""
    first, second = summary["names"]
    return render(
        "training_comparison.html.j2",
        f"Training in Moshi: {first} and {second}",
        subtitle=f"{first} minus {second}",
        summary=summary,
        compared={"first": first, "second": second, "differs": summary["differs"]},
        loss=LOSS_NAMES[summary["weights"]],
        measures=MEASURES,
        counts=[_parameters(side["trained"]) for side in summary["sides"]],
        pictures=drawn_pngs(comparison_figures(summary)),
        heard=_spans_words(summary["spans"], summary["sides"][0]["plan"]),
    )


def verdict(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a run has reached against the base model beyond the window, and whether it is shown."""
    best = _at(summary, summary["best_step"])
    sentences = []
    if not summary["finished"]:
        stands = f"step {summary['step']:,} of {summary['total_steps']:,}"
        sentences.append(f"The training is not at its end: it stands at {stands}.")
    if best is None:
        heading = "Nothing is shown: no validation has heard what was trained"
        return {"kind": "mixed", "heading": heading, "sentences": sentences}
    row = best["against_base"]["beyond_window"]
    kind, heading = _shown(row, "the loss", "the base model's", f"step {best['step']:,}")
    sentences.append(
        "That step is the best of all that were validated, chosen on these same spans: on other "
        "chapters expect a little less of it. The interval is over speakers, not over trainings "
        "from other seeds."
    )
    sentences += _of_voices(summary["plan"])
    return {"kind": kind, "heading": heading, "sentences": sentences}


def comparison_verdict(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The difference of a run and its control beyond the window, and whether it is shown."""
    (first, second), (run, control) = summary["names"], summary["sides"]
    row = summary["differences"]["best"]["beyond_window"]
    steps = f"steps {run['best_step']:,} and {control['best_step']:,}"
    kind, heading = _shown(row, f"the loss of {first}", f"that of {second}", steps)
    percent = summary["more_parameters_percent"]
    matched = abs(percent) <= MATCHED_WITHIN_PERCENT
    if not matched:
        kind = "mixed"  # Another number of parameters may explain it.
    most = f"more than {MATCHED_WITHIN_PERCENT:g} % apart"
    apart = "" if matched else f", {most}, so that this is no matched control"
    sentences = [
        f"{first} has {_parameters(run['trained'])} trained parameters, {second} "
        f"{_parameters(control['trained'])}: {percent:+.2f} %{apart} (base, chapters, spans, "
        "stages and schedule are the same).",
        "The best step of each was chosen on these same spans. The interval is over speakers, not "
        "over trainings from other seeds.",
        *_of_voices(run["plan"]),
    ]
    return {"kind": kind, "heading": heading, "sentences": sentences}


def _shown(row: Mapping[str, Any], ours: str, theirs: str, where: str) -> tuple[str, str]:
    """Kind and sentence of a paired difference beyond the window: shown only by its interval."""
    if row["low"] is None:
        kind, said = "mixed", "Not shown: {} cannot be told from {} with so few speakers"
    elif row["high"] < 0:
        kind, said = "good", "Shown: {} is lower than {}"
    elif row["low"] > 0:
        kind, said = "bad", "Shown: {} is higher than {}"
    else:
        kind, said = "mixed", "Not shown: {} cannot be told from {}"
    said = said.format(f"beyond the attention window {ours}", theirs)
    units = f"{counted(row['n'], 'span')} by {counted(row['speakers'], 'speaker')}"
    return kind, f"{said}; paired difference {words(row, 4)} nats on {units} at {where}."


def _at(summary: Mapping[str, Any], step: int | None) -> Mapping[str, Any] | None:
    found = (each for each in summary["validations"] if each["step"] == step)
    return next(found, None)


def _parameters(trained: Mapping[str, int]) -> str:
    return f"{sum(trained.values()):,} ({_groups(trained)})"


def _groups(trained: Mapping[str, int]) -> str:
    return ", ".join(f"{group} {count:,}" for group, count in trained.items())


def _spans_words(spans: Sequence[Mapping[str, Any]], plan: Mapping[str, Any]) -> str:
    speakers, frames = {span["speaker"] for span in spans}, sum(span["frames"] for span in spans)
    by = counted(len(speakers), "speaker" if _named(plan) else "held-out speaker")
    named = " of held-out chapters" if _named(plan) else ""
    return f"{counted(len(spans), 'span')}{named} by {by}, {frames:,} frames"


def _of_voices(plan: Mapping[str, Any]) -> list[str]:
    """What held-out chapters by speakers that train cannot say."""
    if not _named(plan):
        return []
    return [
        "The held-out chapters were named (data.validation_chapters), and their speakers may be "
        "among those that train: this says nothing of other voices."
    ]


def _named(plan: Mapping[str, Any]) -> bool:
    """Whether chapters were held out in place of speakers."""
    return plan["data"].get("validation_chapters") is not None


def _layers(summary: Mapping[str, Any]) -> dict[str, dict[str, list[float | None]]]:
    """Row -> layer -> its value at the first, the best and the last validation."""
    told = summary["validations"]
    if not told:
        return {}
    points = [told[0], _at(summary, summary["best_step"]) or told[-1], told[-1]]
    return {
        row: {layer: [point[row].get(layer) for point in points] for layer in told[0][row]}
        for row in LAYER_ROWS
        if told[0][row]
    }


def _settings(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of the configuration."""
    config = {key: value for key, value in provenance["config"].items() if key not in _OWN_PLACES}
    return dict(entries(config))
