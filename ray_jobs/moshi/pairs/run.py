"""An evaluation of pairs from plan to report: shards without scores are dispatched, then all told.

OUTPUT holds what `ttt.eval.pairs.run` lists, and besides

    config.yaml provenance.json   of the run
    codes/                        codes of the recordings, unless codes_cache says where else
    silence.flac                  what the codes of silence sound like, where it was asked for
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from moshi.models.loaders import FRAME_RATE

from ray_jobs.moshi.models import wanted_weights
from ray_jobs.moshi.pairs.config import EvaluatePairsConfig
from ray_jobs.moshi.pairs.plan import Plan, Work
from ray_jobs.moshi.pairs.worker import PairWorker, without_scores
from ray_jobs.reports.page import read_pictures
from ray_jobs.reports.pairs import build_report, headline_words
from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Invocation
from ray_jobs.runtime.items import Ask, Session, WorkerDied, worker_session
from ray_jobs.runtime.progress import Progress
from ray_jobs.runtime.run_folder import refuse_changed_config, refuse_changed_run
from ttt import records, storage
from ttt.audio import read_header
from ttt.errors import UserError
from ttt.eval.pairs.records import read_part, write_part
from ttt.eval.pairs.run import PairRunDescription
from ttt.eval.pairs.summary import rescore
from ttt.eval.run import ModelIdentity
from ttt.files.errors import FileIdentity

_FREE = ("cluster", "summary", "min_coverage", "silence_seconds", "codes_cache", "output")
"""What may change when a run goes on: no record depends on it."""
_SILENCE = "silence.flac"


def evaluate(plan: Plan, invocation: Invocation) -> None:
    """Score every shard that has no scores yet, and write the run's folder.

    Raises UserError before Ray starts for what does not fit, and at the end, with everything
    written, when a task has fewer pairs than `min_coverage`.
    """
    config, output = plan.config, Path(plan.config.output)
    if invocation.resume:
        refuse_changed_config(plan.given, output, _FREE)
    with run_folder.claim(config.output, plan.given, resume=invocation.resume) as begin:
        missing = plan.missing()
        if invocation.resume:
            _refuse_replaced_audio(plan)
        if missing or not _is_silence_heard(config) or not (output / "run.json").exists():
            wanted = len(missing)
            with worker_session(config.cluster, invocation.address, wanted=wanted) as session:
                _run(plan, missing, session, begin)
        else:
            print(f"{output}: every pair has its scores, nothing is scored again")
            _keep(plan, begin)
        summary = write_results(output, config)
    print("\n".join([*headline_words(summary), f"report: {output}/report.html"]), flush=True)
    _refuse_low_coverage(config, summary)


def write_results(folder: Path, config: EvaluatePairsConfig | None = None) -> dict[str, Any]:
    """Recompute summary.json, legacy.json, plots and report.html of a run; returns the summary."""
    summary = rescore(folder, None if config is None else config.summary)
    storage.write_bytes(folder / "report.html", build_report(summary, *media(folder)).encode())
    return summary


def media(folder: Path) -> tuple[dict[str, bytes], bytes | None]:
    """The pictures of a run by name, and the sound of silence where there is one."""
    silence = folder / _SILENCE
    return read_pictures(folder), silence.read_bytes() if silence.exists() else None


def _refuse_replaced_audio(plan: Plan) -> None:
    """Raise UserError where a pair's recording is not what its score was made of.

    Scores of before the files were noted stand, and that is said.
    """
    output, unknown, identity_of = plan.config.output, 0, functools.cache(FileIdentity.of)
    for work in plan.work:
        path = work.path(output)
        if not path.exists():
            continue
        files = {
            (pair.pair_id, role): utterance.audio
            for pair in work.pairs
            for role, utterance in (("positive", pair.positive), ("negative", pair.negative))
        }
        for row in read_part(path):
            file = files.get((row.pair_id, row.role))
            if row.status != "ok" or file is None:
                continue  # What has no score is heard again; other pairs are refused by `_keep`.
            unknown += row.audio is None
            if row.audio is not None and not (file.exists() and identity_of(file) == row.audio):
                raise UserError(
                    f"{output}: the {row.role} recording of pair {row.pair_id} of {row.task} has "
                    f"changed since it was scored; choose another output for a new run, bring "
                    f"{file} back, or delete the shards that have it (the first is {path})"
                )
    if unknown:
        print(
            f"{output}: {unknown:,} scores do not say of which file they are, as scores of before "
            "did not; they are taken to be of these"
        )


def _is_silence_heard(config: EvaluatePairsConfig) -> bool:
    """Whether silence.flac is as long as it should be; one that is not wanted is removed."""
    path = Path(config.output) / _SILENCE
    if config.silence_seconds is None:
        path.unlink(missing_ok=True)
        return True
    if not path.exists():
        return False
    header = read_header(path)  # It holds whole frames.
    return abs(header.samples / header.rate - config.silence_seconds) < 1 / FRAME_RATE


def _keep(plan: Plan, begin: Callable[[], None]) -> None:
    """See that a finished run's pairs are those planned; write run.json for its summary."""
    output = Path(plan.config.output)
    run = PairRunDescription.read(output)
    before, now = asdict(run), {"tasks": [asdict(task) for task in plan.tasks]}
    refuse_changed_run(before, now, ("tasks",), output)
    begin()
    replace(run, summary=plan.config.summary).write(output)


def _run(plan: Plan, missing: Sequence[Work], session: Session, begin: Callable[[], None]) -> None:
    """Start workers, see that models and pairs are those of the run, score what is missing."""
    config = plan.config
    total, ahead = (2 * sum(len(w.pairs) for w in works) for works in (plan.work, missing))
    with (
        Progress("scoring", total, "recordings", done=total - ahead) as progress,
        session.workers(PairWorker, config) as workers,
    ):
        workers.prepare(lambda ask: _prepare(plan, ask, begin), progress)
        unscored = 0
        for work, outcome in workers.each("score", missing, progress=progress):
            if isinstance(outcome, WorkerDied):
                outcome = _give_up(work, config.output, outcome.reason)
            unscored += outcome
            fields: dict[str, object] = {"without_score": unscored} if unscored else {}
            progress.advance(2 * len(work.pairs), **fields)


def _give_up(work: Work, output: str, reason: str) -> int:
    """Write why a shard's utterances have no scores; those that have some keep them.

    Returns how many utterances are left without one.
    """
    path = work.path(output)
    kept = read_part(path) if path.exists() else []
    scored = {(row.pair_id, row.role): row for row in kept if row.status == "ok"}
    rows = [scored.get((row.pair_id, row.role), row) for row in without_scores(work, reason)]
    write_part(path, rows)
    return len(rows) - len(scored)


def _prepare(plan: Plan, ask: Ask, begin: Callable[[], None]) -> None:
    """Write run.json, and silence.flac where it is wanted."""
    config, output = plan.config, Path(plan.config.output)
    description = _describe(plan, ask)
    if (output / "run.json").exists():
        before, now = asdict(PairRunDescription.read(output)), asdict(description)
        refuse_changed_run(before, now, ("models", "tasks", "mimi", "device"), output)
    begin()
    description.write(output)
    if config.silence_seconds is not None:
        ask("write_silence", config.silence_seconds, str(output / _SILENCE))


def _describe(plan: Plan, ask: Ask) -> PairRunDescription:
    config = plan.config
    # Last to first: the worker is then left with the model that scores first.
    models: list[ModelIdentity] = []
    for weights in reversed(wanted_weights(config.model)):
        models.insert(0, ask("identify", weights))
    return PairRunDescription(
        models=tuple(models),
        settings=config.settings,
        tasks=plan.tasks,
        mimi=ask("identify_codec"),
        seed=config.seed,
        device=config.cluster.device,
        dtype=config.model.dtype,
        chunk=config.chunk,
        batch_items=config.batch_items,
        batch_frames=config.batch_frames,
        strict=config.preset in ("seed", "original"),
        summary=config.summary,
        provenance=records.provenance(config),
        warnings=plan.warnings,
    )


def _refuse_low_coverage(config: EvaluatePairsConfig, summary: dict[str, Any]) -> None:
    for key, run in summary["runs"].items():
        for name, task in run["tasks"].items():
            if task["coverage"] is None or task["coverage"] < config.min_coverage:
                raise UserError(
                    f"{key} has scores of {task['scored']:,} of {task['planned']:,} pairs of "
                    f"{name}, min_coverage is {config.min_coverage:g}; {config.output}/report.html "
                    "lists the others with their reasons"
                )
