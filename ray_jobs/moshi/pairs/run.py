"""The evaluation on pairs, for the driver of `ray_jobs.moshi.evaluation`.

OUTPUT holds besides: silence.flac, what the codes of silence sound like, where it was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ray_jobs.moshi import evaluation
from ray_jobs.moshi.evaluation import Job, Record, Recorded, identities, shared_description
from ray_jobs.moshi.pairs.config import EvaluatePairsConfig
from ray_jobs.moshi.pairs.plan import Plan, WorkItem
from ray_jobs.moshi.pairs.rows import without_scores
from ray_jobs.reports.page import read_pictures
from ray_jobs.reports.pairs import build_report, headline_words
from ray_jobs.runtime.cli import Invocation
from ray_jobs.runtime.items import Ask, WorkerDied
from ttt.audio import read_header
from ttt.eval.config import FRAME_RATE
from ttt.eval.pairs.records import read_part, write_part
from ttt.eval.pairs.run import PairRun, PlannedTask
from ttt.eval.pairs.summary import PAIRS

_SILENCE = "silence.flac"


class PairsJob(Job[Plan]):
    """Shards of pairs, each under one model and one setting of the streams."""

    kind = PAIRS
    COMMAND: ClassVar[str] = "evaluate_pairs"
    WORK: ClassVar[tuple[str, str, str]] = ("score", "scoring", "recordings")
    RECORDS: ClassVar[str] = "scores"
    FINISHED: ClassVar[str] = "every pair has its scores, nothing is scored again"

    @property
    def worker(self) -> type:
        """The worker; only where there is work, since it brings torch and Moshi."""
        from ray_jobs.moshi.pairs.worker import PairWorker

        return PairWorker

    def units(self, plan: Plan, item: WorkItem) -> int:
        """Recordings."""
        return 2 * len(item.pairs)

    def planned(self, plan: Plan) -> tuple[PlannedTask, ...]:
        """The tasks."""
        return plan.tasks

    def recorded(self, plan: Plan) -> Iterator[Recorded]:
        """Recordings with a score: what has none is heard again."""
        for work in plan.work:
            path = work.path(plan.config.output)
            files = {
                (pair.pair_id, role): utterance.audio
                for pair in work.pairs
                for role, utterance in (("positive", pair.positive), ("negative", pair.negative))
            }
            for row in read_part(path) if path.exists() else ():
                file = files.get((row.pair_id, row.role))
                if row.status == "ok" and file is not None:
                    what = f"the {row.role} recording of pair {row.pair_id} of {row.task}"
                    noted = () if row.audio is None else (row.audio,)
                    yield Recorded(what, "it was scored", (file,), noted, path)

    def extras_are_there(self, plan: Plan) -> bool:
        """Whether silence.flac is as long as it should be, where it is wanted."""
        path, wanted = Path(plan.config.output) / _SILENCE, plan.config.silence_seconds
        if wanted is None or not path.exists():
            return wanted is None
        header = read_header(path)  # It holds whole frames.
        return abs(header.samples / header.rate - wanted) < 1 / FRAME_RATE

    def describe_run(self, plan: Plan, ask: Ask) -> PairRun:
        """The models, the baseline first, controls last."""
        config = plan.config
        return PairRun(
            models=identities(ask, plan.models),
            settings=config.settings,
            tasks=plan.tasks,
            batch_items=config.batch_items,
            batch_frames=config.batch_frames,
            strict=config.preset in ("seed", "original"),
            warnings=plan.warnings,
            **shared_description(config, ask),
        )

    def begin(self, plan: Plan, ask: Ask | None) -> None:
        """Write silence.flac where it is wanted, and remove it where it is not."""
        path, seconds = Path(plan.config.output) / _SILENCE, plan.config.silence_seconds
        if seconds is None:
            path.unlink(missing_ok=True)
        elif ask is not None:
            ask("write_silence", seconds, str(path))

    def recording(self, plan: Plan, missing: Sequence[WorkItem]) -> Record:
        """The reasons of shards whose workers died; progress tells what has no score."""
        unscored = 0

        def record(work: WorkItem, outcome: int | WorkerDied) -> dict[str, object]:
            nonlocal unscored
            if isinstance(outcome, WorkerDied):
                outcome = _give_up(work, plan.config.output, outcome.reason)
            unscored += outcome
            return {"without_score": unscored} if unscored else {}

        return record

    def page(self, folder: Path, summary: dict[str, Any]) -> str:
        """With the pictures and the silence of the folder."""
        return build_report(summary, *media(folder))

    def closing_words(self, summary: dict[str, Any]) -> list[str]:
        """A line per model, setting and metric."""
        return headline_words(summary)

    def low_coverage(self, config: EvaluatePairsConfig, summary: dict[str, Any]) -> Iterator[str]:
        """Of tasks, model by model and setting by setting."""
        for key, run in summary["runs"].items():
            for name, task in run["tasks"].items():
                if task["coverage"] is None or task["coverage"] < config.min_coverage:
                    yield (
                        f"{key} has scores of {task['scored']:,} of {task['planned']:,} pairs of "
                        f"{name}, min_coverage is {config.min_coverage:g}; "
                        f"{config.output}/report.html lists the others with their reasons"
                    )


JOB = PairsJob()


def evaluate(plan: Plan, invocation: Invocation) -> None:
    """Score every shard that has no scores yet, and write the run's folder; see the driver."""
    evaluation.evaluate(JOB, plan, invocation)


def media(folder: Path) -> tuple[dict[str, bytes], bytes | None]:
    """The pictures of a run by name, and the sound of silence where there is one."""
    silence = folder / _SILENCE
    return read_pictures(folder), silence.read_bytes() if silence.exists() else None


def _give_up(work: WorkItem, output: str, reason: str) -> int:
    """Write why a shard's utterances have no scores; those that have some keep them.

    Returns how many utterances are left without one.
    """
    path = work.path(output)
    kept = read_part(path) if path.exists() else []
    scored = {(row.pair_id, row.role): row for row in kept if row.status == "ok"}
    rows = [scored.get((row.pair_id, row.role), row) for row in without_scores(work, reason)]
    write_part(path, rows)
    return len(rows) - len(scored)
