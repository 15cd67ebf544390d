"""What the records of chapters come to: losses, coverage, effort, verification, activity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ttt import storage
from ttt.eval.chapters.compare import compare
from ttt.eval.chapters.long_context import legacy, longer_half, summarize
from ttt.eval.chapters.measures import ChapterMeasures, measure_chapter
from ttt.eval.chapters.records import ChapterDetails, read_records
from ttt.eval.chapters.run import ChapterRun, records_root
from ttt.eval.config import LongContextConfig
from ttt.eval.figures import Figures, chapter_figures
from ttt.eval.rescore import Kind
from ttt.eval.run import Run
from ttt.records import read_jsonl

VERIFICATION = "verification.jsonl"


@dataclass(frozen=True)
class MeasuredChapters:
    """What one model's records hold, chapter by chapter."""

    context: int
    chapters: list[ChapterMeasures]
    details: list[ChapterDetails]

    def only(self, chapter_ids: set[str]) -> list[ChapterMeasures]:
        """Those of the given ids."""
        return [chapter for chapter in self.chapters if chapter.chapter_id in chapter_ids]


class Chapters(Kind[ChapterRun, LongContextConfig, MeasuredChapters]):
    """Whole chapters, heard by models under one setting of the streams."""

    RUN: ClassVar[type[Run]] = ChapterRun
    NOUN: ClassVar[str] = "model"
    SIDE: ClassVar[str] = "model"

    def measure(
        self, folder: str | Path, run: ChapterRun, name: str, config: LongContextConfig
    ) -> MeasuredChapters:
        """The measures of all records of a model, with one record in memory at a time."""
        measured = MeasuredChapters(run.identity(name).context, [], [])
        for record in read_records(records_root(folder, name)):
            measured.chapters.append(measure_chapter(record, measured.context, config))
            measured.details.append(record.details)
        return measured

    def numbers(self, measured: MeasuredChapters, config: LongContextConfig) -> dict[str, Any]:
        """As `summarize` has them."""
        return summarize(measured.chapters, measured.context, config)

    def account(
        self, folder: str | Path, run: ChapterRun, name: str, measured: MeasuredChapters
    ) -> dict[str, Any]:
        """Effort, coverage with the reasons of what is missing, verification, every value."""
        chapters, details = measured.chapters, measured.details
        reasons = _failures(storage.local_path(folder) / "failures.jsonl", name)
        return {
            **_effort(chapters, details),
            **_coverage(run, chapters, reasons),
            "verification": _verification(folder, name),
            "activity": _activity(chapters, details),
            "values": [asdict(chapter) for chapter in chapters],
        }

    def compare(
        self,
        first: MeasuredChapters,
        second: MeasuredChapters,
        config: LongContextConfig,
        *,
        strict: bool,
    ) -> dict[str, Any]:
        """As `compare` has it, and how many chapters of one of the two only are left out."""
        one, other = first.chapters, second.chapters
        if not strict:
            both = {each.chapter_id for each in one} & {each.chapter_id for each in other}
            one, other = first.only(both), second.only(both)
        left_out = len(first.chapters) + len(second.chapters) - len(one) - len(other)
        return {"left_out": left_out, **compare(one, other, config)}

    def legacy(self, run: ChapterRun, numbers: dict[str, Any]) -> dict[str, Any]:
        """Of one model."""
        return legacy(numbers)

    def figures(self, summary: Mapping[str, Any]) -> Figures:
        """Curves."""
        return chapter_figures(summary)


CHAPTERS = Chapters()


def held_groups(folder: str | Path) -> dict[tuple[str, ...], dict[str, Any]]:
    """(model, *chapters) -> the last line of verification.jsonl about this group."""
    path = storage.local_path(folder) / VERIFICATION
    if not path.exists():
        return {}
    return {(line["model"], *line["chapters"]): line for line in read_jsonl(path)}


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
    run: ChapterRun, chapters: Sequence[ChapterMeasures], reasons: dict[str, str]
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


def _failures(path: Path, model: str) -> dict[str, str]:
    """Chapter -> the last reason it failed for under this model."""
    lines = read_jsonl(path) if path.exists() else ()
    return {line["chapter_id"]: line["reason"] for line in lines if line["model"] == model}


def _verification(folder: str | Path, model: str) -> dict[str, Any] | None:
    """A model's groups compared with stepping, together, and those that could not be."""
    lines = [line for line in held_groups(folder).values() if line["model"] == model]
    if not lines:
        return None
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
