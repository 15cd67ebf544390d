"""All summaries of a run from its stored records: no model, no audio, no Ray.

`rescore(folder)` writes summary.json, legacy.json and plots/; `compare_runs` sets two finished
runs against each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttt import storage
from ttt.errors import UserError
from ttt.eval.chapters.compare import compare
from ttt.eval.chapters.long_context import legacy, longer_half, summarize
from ttt.eval.chapters.measures import ChapterMeasures, measure_chapter
from ttt.eval.chapters.records import ChapterDetails, read_records
from ttt.eval.config import LongContextConfig
from ttt.eval.differences import differing_settings, side_names
from ttt.eval.figures import chapter_plots
from ttt.eval.run import ModelIdentity, RunDescription, refuse_other_rounding, write_summary
from ttt.records import read_jsonl

VERIFICATION = "verification.jsonl"


def rescore(folder: str | Path, config: LongContextConfig | None = None) -> dict[str, Any]:
    """Compute everything again, write summary.json, legacy.json and plots/, return the summary.

    Args and errors are those of `summarize_run`.
    """
    run = RunDescription.read(folder)
    summary = _summary(folder, run, config or run.summary)
    figures = {name: legacy(model) for name, model in summary["models"].items()}
    write_summary(folder, summary, figures, ("model", run.headline), chapter_plots(summary))
    return summary


def summarize_run(folder: str | Path, config: LongContextConfig | None = None) -> dict[str, Any]:
    """The summary of a run as its records stand, finished or not; writes nothing.

    Args:
        config: other settings than the run's own.

    Raises:
        UserError: not a run's folder, or a record is damaged.
    """
    run = RunDescription.read(folder)
    return _summary(folder, run, config or run.summary)


def held_groups(folder: str | Path) -> dict[tuple[str, ...], dict[str, Any]]:
    """(model, *chapters) -> the last line of verification.jsonl about this group."""
    path = storage.local_path(folder) / VERIFICATION
    if not path.exists():
        return {}
    return {(line["model"], *line["chapters"]): line for line in read_jsonl(path)}


def compare_runs(
    first: str | Path, first_model: str, second: str | Path, second_model: str
) -> dict[str, Any]:
    """`compare` for a model of one finished run and a model of another, under the first's settings.

    Raises:
        UserError: no such run or model, other chapters or codes, or bfloat16 computed otherwise.
    """
    one, other = _sides((first, first_model), (second, second_model))
    return compare(one.chapters, other.chapters, one.run.summary)


def summarize_comparison(
    first: str | Path, first_model: str, second: str | Path, second_model: str
) -> dict[str, Any]:
    """`compare_runs` as the summary of a run that held both models, for its pictures and pages.

    The models' names say which run each is of where they would be the same.
    """
    sides = _sides((first, first_model), (second, second_model))
    names = side_names((str(first), first_model), (str(second), second_model))
    config = sides[0].run.summary
    models = {
        name: {**summarize(side.chapters, side.context, config), "activity": {}}
        for name, side in zip(names, sides, strict=True)
    }
    runs = {str(first): sides[0].run, str(second): sides[1].run}
    return {
        "run": {
            "summary": config.to_dict(),
            "models": [
                {"model": name, "controls": side.identity.controls}
                for name, side in zip(names, sides, strict=True)
            ],
        },
        "sides": [
            {"run": str(folder), "model": model, "described": asdict(side.run)}
            for (folder, model), side in zip(
                ((first, first_model), (second, second_model)), sides, strict=True
            )
        ],
        "warnings": [f"{folder}: {text}" for folder, run in runs.items() for text in run.warnings],
        "models": models,
        "comparisons": [
            {
                "first": names[0],
                "second": names[1],
                "left_out": 0,
                "differs": differing_settings(
                    sides[0].run, first_model, sides[1].run, second_model
                ),
                **compare(sides[0].chapters, sides[1].chapters, config),
            }
        ],
    }


@dataclass(frozen=True)
class _Side:
    """One of two models that are compared."""

    run: RunDescription
    identity: ModelIdentity
    chapters: list[ChapterMeasures]

    @property
    def context(self) -> int:
        return self.identity.context


def _sides(*named: tuple[str | Path, str]) -> list[_Side]:
    """Models of runs, measured under the settings of the first run. Raises as `compare_runs`."""
    config = RunDescription.read(named[0][0]).summary
    sides = []
    for folder, name in named:
        run = RunDescription.read(folder)
        model = next((model for model in run.models if model.model == name), None)
        if model is None:
            there = ", ".join(model.model for model in run.models)
            raise UserError(f"{folder}: has no model {name}; it has {there}")
        chapters = _measure(run.records_root(folder, name), model.context, config)[0]
        sides.append(_Side(run, model, chapters))
    (one, ours), (other, theirs) = (
        (folder, vars(side.run)) for (folder, _), side in zip(named, sides, strict=True)
    )
    refuse_other_rounding((one, ours), (other, theirs), names=("chunk", "batch"))
    return sides


def _summary(folder: str | Path, run: RunDescription, config: LongContextConfig) -> dict[str, Any]:
    failures = _failures(storage.local_path(folder) / "failures.jsonl")
    verified = _verified(folder)
    measured, models = {}, {}
    for model in run.models:
        chapters, details = _measure(run.records_root(folder, model.model), model.context, config)
        measured[model.model] = chapters
        models[model.model] = {
            **summarize(chapters, model.context, config),
            **_effort(chapters, details),
            **_coverage(run, chapters, failures[model.model]),
            "verification": verified.get(model.model),
            "activity": _activity(chapters, details),
            "values": [asdict(chapter) for chapter in chapters],
        }
    return {
        "run": {**asdict(run), "summary": config.to_dict()},
        "warnings": list(run.warnings),
        "models": models,
        "comparisons": _comparisons(run, measured, config),
    }


def _measure(
    root: Path, context: int, config: LongContextConfig
) -> tuple[list[ChapterMeasures], list[ChapterDetails]]:
    """The measures of all records below a folder, with one record in memory at a time."""
    chapters, details = [], []
    for record in read_records(root):
        chapters.append(measure_chapter(record, context, config))
        details.append(record.details)
    return chapters, details


def _comparisons(
    run: RunDescription, measured: dict[str, list[ChapterMeasures]], config: LongContextConfig
) -> list[dict[str, Any]]:
    """Every model against its reference, on the chapters that both have."""
    compared = []
    for other in (model.model for model in run.models):
        first = run.reference(other)
        if first is None:
            continue
        both = {c.chapter_id for c in measured[first]} & {c.chapter_id for c in measured[other]}
        pair = [[c for c in measured[name] if c.chapter_id in both] for name in (first, other)]
        compared.append(
            {
                "first": first,
                "second": other,
                "left_out": len(measured[first]) + len(measured[other]) - 2 * len(both),
                "differs": differing_settings(run, first, run, other),
                **compare(pair[0], pair[1], config),
            }
        )
    return compared


def _effort(
    chapters: Sequence[ChapterMeasures], details: Sequence[ChapterDetails]
) -> dict[str, Any]:
    """Speed, acceptance and memory; None where no record says."""
    frames = [chapter.frames for chapter in chapters]
    timed = [(n, d.seconds) for n, d in zip(frames, details, strict=True) if d.seconds is not None]
    guessed = [
        (n, d.acceptance) for n, d in zip(frames, details, strict=True) if d.acceptance is not None
    ]
    seconds, steps = sum(s for _, s in timed), sum(n for n, _ in guessed)
    return {
        "frames_per_second": sum(n for n, _ in timed) / seconds if seconds else None,
        "acceptance": sum(n * share for n, share in guessed) / steps if steps else None,
        "peak_bytes": max(
            (d.peak_bytes for d in details if d.peak_bytes is not None), default=None
        ),
        "near_ties": sum(d.near_ties for d in details if d.near_ties is not None),
        "joins": sum(len(d.joins) for d in details),
        "unscored_frames": sum(d.unscored_frames for d in details),
        "chunks_lowered": [d.chapter_id for d in details if len(d.chunks) > 1],
    }


def _coverage(
    run: RunDescription, chapters: Sequence[ChapterMeasures], reasons: dict[str, str]
) -> dict[str, Any]:
    done = {chapter.chapter_id for chapter in chapters}
    planned = [chapter.chapter_id for chapter in run.chapters]
    left_out = [
        {"chapter_id": name, "reason": reasons.get(name, "not evaluated yet")}
        for name in planned
        if name not in done
    ]
    unplanned = [name for name in reasons if name not in done and name not in set(planned)]
    left_out += [{"chapter_id": name, "reason": reasons[name]} for name in unplanned]
    wanted = len(done) + len(left_out)
    return {"coverage": len(done) / wanted if wanted else None, "left_out": left_out}


def _failures(path: Path) -> dict[str, dict[str, str]]:
    """Model -> chapter -> the last reason it failed for."""
    reasons: dict[str, dict[str, str]] = defaultdict(dict)
    if path.exists():
        for line in read_jsonl(path):
            reasons[line["model"]][line["chapter_id"]] = line["reason"]
    return reasons


def _verified(folder: str | Path) -> dict[str, dict[str, Any]]:
    """Model -> its groups compared with stepping, together, and those that could not be."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in held_groups(folder).values():
        groups[line["model"]].append(line)
    return {model: _together(lines) for model, lines in groups.items()}


def _together(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    held = [line for line in lines if "error" not in line]
    differences = [line["largest_nll_difference"] for line in held]
    counted = ["frames", "text_differences", "unexplained_text_differences"]
    if any("beginning_frames" in line for line in held):  # Runs of before stepped no beginning.
        counted.append("beginning_frames")
    return {
        "groups": len(held),
        **{key: sum(line.get(key, 0) for line in held) for key in counted},
        # One that is not a number is written as null, and larger than all others.
        "largest_nll_difference": None if None in differences else max(differences, default=None),
        "unverified": [
            {"chapters": line["chapters"], "reason": line["error"]}
            for line in lines
            if "error" in line
        ],
    }


def _activity(
    chapters: Sequence[ChapterMeasures], details: Sequence[ChapterDetails]
) -> dict[str, dict[str, list[Any]]]:
    """Layer -> mean size of its fast weights' change by frame, and of how many chapters.

    Of the longer half of the chapters that have any, at frames that all of them measured: means
    over whoever is still there would change with who that is.
    """
    points: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    measured = [
        (chapter.frames, each)
        for chapter, each in zip(chapters, details, strict=True)
        if any(each.activity.values())
    ]
    panel = [measured[place][1] for place in longer_half([frames for frames, _ in measured])]
    for chapter in panel:
        for layer, line in chapter.activity.items():
            for frame, change in zip(chapter.activity_frames, line, strict=True):
                points[layer][frame].append(change)
    means: dict[str, dict[str, list[Any]]] = {}
    for layer, by_frame in sorted(points.items(), key=lambda item: int(item[0])):
        shared = sorted(frame for frame in by_frame if len(by_frame[frame]) == len(panel))
        if shared:
            means[layer] = {
                "frame": shared,
                "mean": [float(np.mean(by_frame[frame])) for frame in shared],
                "n": [len(panel)] * len(shared),
            }
    return means
