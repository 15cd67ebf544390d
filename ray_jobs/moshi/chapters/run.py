"""A chapter evaluation from plan to report: what is missing is dispatched, the rest recomputed.

OUTPUT holds what `ttt.eval.run` lists, and besides

    config.yaml provenance.json   of the run
    codes/                        codes of the chapters, unless codes_cache says where else
    state/                        of groups that are being heard; empty when all is done
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.moshi.chapters.plan import Plan, Work, records_root
from ray_jobs.moshi.chapters.worker import ChapterWorker, Outcome, is_verified
from ray_jobs.reports.chapters import build_report
from ray_jobs.reports.page import read_pictures
from ray_jobs.reports.words import largest_difference, not_held, stepped_frames
from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Invocation
from ray_jobs.runtime.items import Ask, Session, WorkerDied, worker_session
from ray_jobs.runtime.progress import Progress
from ray_jobs.runtime.run_folder import refuse_changed_config, refuse_changed_run
from ttt import records, storage
from ttt.errors import UserError
from ttt.eval.chapters.find import Chapter
from ttt.eval.chapters.records import read_details, record_path
from ttt.eval.chapters.summary import VERIFICATION, held_groups, rescore
from ttt.eval.run import ModelIdentity, PlannedChapter, RunDescription
from ttt.files.errors import same_files
from ttt.moshi.original import WARNING

_FREE = ("cluster", "summary", "min_coverage", "verify_spans", "state_every_frames", "output")
"""What may change when a run goes on: no record depends on it."""


def evaluate(plan: Plan, invocation: Invocation) -> None:
    """Hear every chapter that has no record yet, and write the run's folder.

    Raises UserError before Ray starts for what does not fit, and at the end, with everything
    written, when a model has fewer chapters than `min_coverage`.
    """
    config, output = plan.config, Path(plan.config.output)
    if invocation.resume:
        refuse_changed_config(plan.given, output, _FREE)
    with run_folder.claim(config.output, plan.given, resume=invocation.resume) as begin:
        if invocation.resume:
            _refuse_replaced_audio(plan)
        missing = _missing(plan)
        if missing or not (output / "run.json").exists():
            wanted = len(missing)
            with worker_session(config.cluster, invocation.address, wanted=wanted) as session:
                _run(plan, missing, session, begin)
        else:
            print(f"{output}: every chapter has its record, nothing is heard again")
            _keep(plan, begin)
        summary = write_results(output, config)
    print(_closing_words(output, summary), flush=True)
    _refuse_low_coverage(config, summary)


def write_results(folder: Path, config: EvaluateChaptersConfig | None = None) -> dict[str, Any]:
    """Recompute summary.json, legacy.json, plots and report.html of a run; returns the summary."""
    summary = rescore(folder, None if config is None else config.summary)
    page = build_report(summary, read_pictures(folder))
    storage.write_bytes(folder / "report.html", page.encode())
    return summary


def _refuse_replaced_audio(plan: Plan) -> None:
    """Raise UserError where a chapter's audio is not what its record was made of.

    The same name and length do not make the same recording. Records of before the files were noted
    stand, and that is said.
    """
    unknown = 0
    heard = [(w.listener.name, r) for w in plan.work for r in w.recordings]
    for model, recording in heard:
        path = record_path(records_root(plan.config.output, model), recording.chapter_id)
        if not isinstance(recording, Chapter) or not path.exists():
            continue
        before = read_details(path).audio
        unknown += not before
        if before and not same_files(before, recording.files):
            raise UserError(
                f"{plan.config.output}: the audio of {recording.chapter_id} has changed since "
                f"{model} heard it; choose another output for a new run, bring the audio back, or "
                f"delete its records (the first is {path}) to have it heard again"
            )
    if unknown:
        print(
            f"{plan.config.output}: {unknown:,} records do not say of which files they are, as "
            "records of before did not; they are taken to be of these"
        )


def _missing(plan: Plan) -> list[Work]:
    lines = held_groups(plan.config.output)
    verified = {group for group, line in lines.items() if "error" not in line}
    return [
        work
        for work in plan.work
        if not plan.is_done(work)
        or (is_verified(plan.config, work.listener) and _group(work) not in verified)
    ]


def _keep(plan: Plan, begin: Callable[[], None]) -> None:
    """See that a finished run's chapters are those planned; write run.json for its summary."""
    output = Path(plan.config.output)
    run = RunDescription.read(output)
    before, now = asdict(run), {"chapters": [asdict(chapter) for chapter in _planned(plan)]}
    refuse_changed_run(before, now, ("chapters",), output)
    begin()
    replace(run, summary=plan.config.summary).write(output)


def _run(plan: Plan, missing: Sequence[Work], session: Session, begin: Callable[[], None]) -> None:
    """Start workers, see that models and chapters are those of the run, hear what is missing."""
    config = plan.config
    total = sum(plan.frames(item) for work in plan.work for item in work.recordings)
    ahead = sum(plan.frames(item) for work in missing for item in work.recordings)
    fields: dict[str, object] = {}
    with (
        Progress("hearing", total, "frames", done=total - ahead) as progress,
        session.counting(progress, fields) as count,
        session.workers(ChapterWorker, config, count) as workers,
    ):
        workers.prepare(lambda ask: _prepare(plan, ask, begin), progress)
        chapters = sum(len(work.recordings) for work in plan.work)
        done = chapters - sum(len(work.recordings) for work in missing)
        kept, heard = 0.0, 0
        for work, outcome in workers.each("hear", missing, progress=progress):
            _record_outcome(config, work, outcome)
            done += len(work.recordings)
            fields["chapters"] = f"{done:,}/{chapters:,}"
            if isinstance(outcome, Outcome) and outcome.acceptance is not None:
                kept += outcome.frames * outcome.acceptance
                heard += outcome.frames
                fields["acceptance"] = kept / heard


def _prepare(plan: Plan, ask: Ask, begin: Callable[[], None]) -> None:
    """Write run.json, and anew what cannot be evaluated."""
    output = Path(plan.config.output)
    description = _describe(plan, ask)
    if (output / "run.json").exists():
        before, now = asdict(RunDescription.read(output)), asdict(description)
        refuse_changed_run(before, now, ("models", "chapters", "mimi", "device"), output)
    begin()
    description.write(output)
    failures = output / "failures.jsonl"
    failures.unlink(missing_ok=True)  # What is wrong still will be found again.
    for listener in plan.listeners:
        for chapter in plan.unreadable:
            _note_failure(failures, listener.name, chapter.chapter_id, chapter.reason)


def _describe(plan: Plan, ask: Ask) -> RunDescription:
    config, streams = plan.config, plan.config.streams
    # Last to first: the worker is then left with the model that is heard first.
    models: list[ModelIdentity] = []
    for listener in reversed(plan.listeners):
        models.insert(0, ask("identify", listener))
    return RunDescription(
        models=tuple(models),
        chapters=_planned(plan),
        mimi=ask("identify_codec"),
        seed=config.seed,
        device=config.cluster.device,
        dtype=config.model.dtype,
        chunk=config.chunk,
        batch=config.group_size,
        streams={"text": streams.text, "other": streams.other, "voice": streams.voice},
        summary=config.summary,
        provenance=records.provenance(config),
        warnings=((WARNING,) if config.preset == "original" else ()) + plan.notes,
    )


def _planned(plan: Plan) -> tuple[PlannedChapter, ...]:
    return tuple(
        PlannedChapter(chapter_id=each.chapter_id, speaker=each.speaker, seconds=each.seconds)
        for each in plan.recordings
    )


def _record_outcome(
    config: EvaluateChaptersConfig, work: Work, outcome: Outcome | WorkerDied
) -> None:
    output, name = Path(config.output), work.listener.name
    if isinstance(outcome, WorkerDied):
        outcome = _what_died(config, work, outcome.reason)
    for chapter_id, reason in outcome.failures:
        _note_failure(output / "failures.jsonl", name, chapter_id, reason)
    if outcome.verification is not None:
        _, *chapters = _group(work)
        line = {"model": name, "chapters": chapters, **outcome.verification}
        records.append_jsonl(output / VERIFICATION, line)


def _what_died(config: EvaluateChaptersConfig, work: Work, reason: str) -> Outcome:
    """Chapters without a record have failed; where others have theirs, holding them to stepping."""
    root = records_root(config.output, work.listener.name)
    names = [recording.chapter_id for recording in work.recordings]
    failures = tuple((name, reason) for name in names if not record_path(root, name).exists())
    unverified = is_verified(config, work.listener) and len(failures) < len(names)
    return Outcome(failures=failures, verification={"error": reason} if unverified else None)


def _note_failure(path: Path, model: str, chapter_id: str, reason: str) -> None:
    line = {"model": model, "chapter_id": chapter_id, "reason": reason}
    records.append_jsonl(path, line)


def _group(work: Work) -> tuple[str, ...]:
    """As `held_groups` names it."""
    return (work.listener.name, *(recording.chapter_id for recording in work.recordings))


def _closing_words(output: Path, summary: dict[str, Any]) -> str:
    lines = [f"warning: {text}" for text in summary["warnings"]]
    weights = summary["run"]["summary"]["weights"]
    for name, model in summary["models"].items():
        mean = model["losses"][weights]["measures"]["mean"]["mean"]
        found = "no chapter was evaluated" if mean is None else f"loss {mean:.4f}"
        wanted = model["chapters"] + len(model["left_out"])
        lines.append(f"{name}: {found}, {model['chapters']} of {wanted} chapters")
        lines += [
            f"  left out: {entry['chapter_id']}: {entry['reason']}" for entry in model["left_out"]
        ]
        held = model["verification"]
        if held is not None:
            lines.append(
                f"  held to stepping on {stepped_frames(held)}: largest difference "
                f"{largest_difference(held)} nats, {held['unexplained_text_differences']} texts "
                "that differ without a near tie"
            )
            lines += [f"  not held to stepping: {each}" for each in not_held(held)]
    return "\n".join([*lines, f"report: {output}/report.html"])


def _refuse_low_coverage(config: EvaluateChaptersConfig, summary: dict[str, Any]) -> None:
    for name, model in summary["models"].items():
        coverage = model["coverage"]
        if coverage is None or coverage < config.min_coverage:
            raise UserError(
                f"{name} has records of {model['chapters']} of "
                f"{model['chapters'] + len(model['left_out'])} chapters, min_coverage is "
                f"{config.min_coverage:g}; {config.output}/failures.jsonl says why"
            )
