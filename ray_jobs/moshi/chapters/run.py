"""The evaluation over whole chapters, for the driver of `ray_jobs.moshi.evaluation`.

OUTPUT holds besides: state/, of groups that are being heard; empty when all is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ray_jobs.moshi import evaluation
from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.moshi.chapters.plan import Outcome, Plan, WorkItem, is_verified
from ray_jobs.moshi.evaluation import Job, Record, Recorded, identities, shared_description
from ray_jobs.reports.chapters import build_report
from ray_jobs.reports.page import read_pictures
from ray_jobs.reports.words import largest_difference, not_held, stepped_frames
from ray_jobs.runtime.cli import Invocation
from ray_jobs.runtime.items import Ask, WorkerDied
from ray_jobs.runtime.progress import Counted
from ttt import records
from ttt.eval.chapters.cached import CachedRecording
from ttt.eval.chapters.find import Chapter
from ttt.eval.chapters.records import read_details, record_path
from ttt.eval.chapters.run import (
    ORIGINAL_WARNING,
    ChapterRun,
    PlannedChapter,
    records_root,
)
from ttt.eval.chapters.summary import CHAPTERS, VERIFICATION


class ChaptersJob(Job[Plan]):
    """Groups of chapters, each heard by one model."""

    kind = CHAPTERS
    COMMAND: ClassVar[str] = "evaluate_chapters"
    WORK: ClassVar[tuple[str, str, str]] = ("hear", "hearing", "frames")
    RECORDS: ClassVar[str] = "records"
    FINISHED: ClassVar[str] = "every chapter has its record, nothing is heard again"

    @property
    def worker(self) -> type:
        """The worker."""
        from ray_jobs.moshi.chapters.worker import ChapterWorker

        return ChapterWorker

    def units(self, plan: Plan, item: WorkItem) -> int:
        """Frames."""
        return sum(map(plan.frames, item.recordings))

    def planned(self, plan: Plan) -> tuple[PlannedChapter, ...]:
        """All chapters that can be read."""
        return tuple(
            PlannedChapter(chapter_id=each.chapter_id, speaker=each.speaker, seconds=each.seconds)
            for each in plan.recordings
        )

    def recorded(self, plan: Plan) -> Iterator[Recorded]:
        """Recorded and cached chapters; made ones have no audio."""
        for model, chapter in [(w.variant.name, r) for w in plan.work for r in w.recordings]:
            path = record_path(records_root(plan.config.output, model), chapter.chapter_id)
            if isinstance(chapter, Chapter) and path.exists():
                what, since = f"the audio of {chapter.chapter_id}", f"{model} heard it"
                files = tuple(map(Path, chapter.files))
                yield Recorded(what, since, files, read_details(path).audio, path)
            elif isinstance(chapter, CachedRecording) and path.exists():
                assert plan.config.data is not None
                cache = (Path(str(plan.config.data.cache)),)
                what, since = f"{chapter.chapter_id} in the cache", f"{model} heard it"
                noted, now = read_details(path).audio, (chapter.codes,)
                yield Recorded(what, since, cache, noted, path, now)

    def describe_run(self, plan: Plan, ask: Ask) -> ChapterRun:
        """The models in the plan's order."""
        config, streams = plan.config, plan.config.streams
        return ChapterRun(
            models=identities(ask, plan.variants),
            chapters=self.planned(plan),
            batch=config.group_size,
            streams={"text": streams.text, "other": streams.other, "voice": streams.voice},
            warnings=((ORIGINAL_WARNING,) if config.preset == "original" else ()) + plan.notes,
            **shared_description(config, ask),
        )

    def begin(self, plan: Plan, ask: Ask | None) -> None:
        """Write anew what cannot be evaluated: what is wrong still will be found again."""
        if ask is None:
            return
        failures = Path(plan.config.output) / "failures.jsonl"
        failures.unlink(missing_ok=True)
        for variant in plan.variants:
            for chapter in plan.unreadable:
                _note_failure(failures, variant.name, chapter.chapter_id, chapter.reason)

    def recording(self, plan: Plan, missing: Sequence[WorkItem]) -> Record:
        """Failures and verification; progress tells chapters, failed ones and accepted steps."""
        chapters = sum(len(work.recordings) for work in plan.work)
        done = chapters - sum(len(work.recordings) for work in missing)
        kept, heard = 0.0, 0
        failed = len(plan.unreadable) * len(plan.variants)

        def record(work: WorkItem, outcome: Outcome | WorkerDied) -> dict[str, object]:
            nonlocal done, kept, heard, failed
            failed += _record_outcome(plan.config, work, outcome)
            done += len(work.recordings)
            fields: dict[str, object] = {"chapters": Counted(done, chapters)}
            if failed:
                fields["failed"] = failed
            if isinstance(outcome, Outcome) and outcome.acceptance is not None:
                kept += outcome.frames * outcome.acceptance
                heard += outcome.frames
                fields["acceptance"] = kept / heard
            return fields

        return record

    def page(self, folder: Path, summary: dict[str, Any]) -> str:
        """With the pictures that were drawn into the folder."""
        return build_report(summary, read_pictures(folder))

    def closing_words(self, summary: dict[str, Any]) -> list[str]:
        """Loss, coverage and verification of every model."""
        lines = [f"warning: {text}" for text in summary["warnings"]]
        weights = summary["run"]["summary"]["weights"]
        for name, model in summary["models"].items():
            mean = model["losses"][weights]["measures"]["mean"]["mean"]
            found = "no chapter was evaluated" if mean is None else f"loss {mean:.4f}"
            wanted = model["chapters"] + len(model["left_out"])
            lines.append(f"{name}: {found}, {model['chapters']} of {wanted} chapters")
            lines += [f"  left out: {e['chapter_id']}: {e['reason']}" for e in model["left_out"]]
            held = model["verification"]
            if held is not None:
                lines.append(
                    f"  held to stepping on {stepped_frames(held)}: largest difference "
                    f"{largest_difference(held)} nats, {held['unexplained_text_differences']} "
                    "texts that differ without a near tie"
                )
                lines += [f"  not held to stepping: {each}" for each in not_held(held)]
        return lines

    def low_coverage(
        self, config: EvaluateChaptersConfig, summary: dict[str, Any]
    ) -> Iterator[str]:
        """Of models."""
        for name, model in summary["models"].items():
            if model["coverage"] is None or model["coverage"] < config.min_coverage:
                yield (
                    f"{name} has records of {model['chapters']} of "
                    f"{model['chapters'] + len(model['left_out'])} chapters, min_coverage is "
                    f"{config.min_coverage:g}; {config.output}/failures.jsonl says why"
                )


JOB = ChaptersJob()


def evaluate(plan: Plan, invocation: Invocation) -> None:
    """Hear every chapter that has no record yet, and write the run's folder; see the driver."""
    evaluation.evaluate(JOB, plan, invocation)


def _record_outcome(
    config: EvaluateChaptersConfig, work: WorkItem, outcome: Outcome | WorkerDied
) -> int:
    """Write what a group's records do not say; how many chapters failed."""
    output, name = Path(config.output), work.variant.name
    if isinstance(outcome, WorkerDied):
        outcome = _what_died(config, work, outcome.reason)
    for chapter_id, reason in outcome.failures:
        _note_failure(output / "failures.jsonl", name, chapter_id, reason)
    if outcome.verification is not None:
        line = {"model": name, "chapters": work.chapter_ids, **outcome.verification}
        records.append_jsonl(output / VERIFICATION, line)
    return len(outcome.failures)


def _what_died(config: EvaluateChaptersConfig, work: WorkItem, reason: str) -> Outcome:
    """Chapters without a record have failed; where others have theirs, holding them to stepping."""
    root = records_root(config.output, work.variant.name)
    names = work.chapter_ids
    failures = tuple((name, reason) for name in names if not record_path(root, name).exists())
    unverified = is_verified(config, work.variant) and len(failures) < len(names)
    return Outcome(failures=failures, verification={"error": reason} if unverified else None)


def _note_failure(path: Path, model: str, chapter_id: str, reason: str) -> None:
    line = {"model": model, "chapter_id": chapter_id, "reason": reason}
    records.append_jsonl(path, line)
