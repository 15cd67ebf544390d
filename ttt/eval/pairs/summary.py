"""What the records of pairs come to: accuracies of every task, coverage, what memory has moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from ttt.errors import UserError
from ttt.eval.config import PairSummaryConfig
from ttt.eval.figures import Figures, pair_figures
from ttt.eval.pairs.accuracy import legacy, metric_name, summarize_pairs
from ttt.eval.pairs.compare import compare_pairs
from ttt.eval.pairs.find import LeftOut
from ttt.eval.pairs.records import read_parts
from ttt.eval.pairs.run import PairRun, PlannedTask, items_root
from ttt.eval.pairs.scores import ScoredPairs, scored_pairs
from ttt.eval.rescore import Kind
from ttt.eval.run import Run


@dataclass(frozen=True)
class MeasuredPairs:
    """What the records of one model and setting hold."""

    metrics: dict[str, ScoredPairs]
    missing: dict[str, list[LeftOut]]
    """Task -> pairs that have records and no score."""
    not_as_planned: int
    """Recordings heard in a smaller batch, or in smaller chunks, than the run describes."""

    @property
    def pair_ids(self) -> set[tuple[str, str]]:
        """(task, pair id) of all pairs that have records."""
        there = {(p.task, pair_id) for p in self.metrics.values() for pair_id in p.pair_ids}
        return there | {
            (task, each.pair_id) for task in self.missing for each in self.missing[task]
        }


class Pairs(Kind[PairRun, PairSummaryConfig, MeasuredPairs]):
    """Pairs of recordings, scored by models under one or more settings of the streams."""

    RUN: ClassVar[type[Run]] = PairRun
    NOUN: ClassVar[str] = "run"
    SIDE: ClassVar[str] = "key"

    def measure(
        self, folder: str | Path, run: PairRun, name: str, config: PairSummaryConfig
    ) -> MeasuredPairs:
        """The scored pairs of a key."""
        metrics: dict[str, ScoredPairs] = {}
        missing: dict[str, list[LeftOut]] = {}
        not_as_planned = 0
        for planned in run.tasks:
            records = list(read_parts(items_root(folder, name), planned.task))
            not_as_planned += sum(record.as_planned is False for record in records)
            by_split, missing[planned.task] = scored_pairs(records)
            metrics |= {metric_name(pairs): pairs for pairs in by_split}
        return MeasuredPairs(metrics, missing, not_as_planned)

    def numbers(self, measured: MeasuredPairs, config: PairSummaryConfig) -> dict[str, Any]:
        """`metrics`: name -> as `summarize_pairs` has it."""
        metrics = measured.metrics.items()
        return {"metrics": {name: summarize_pairs(pairs, config) for name, pairs in metrics}}

    def account(
        self, folder: str | Path, run: PairRun, name: str, measured: MeasuredPairs
    ) -> dict[str, Any]:
        """Model, setting, and coverage task by task with the reasons of what is missing."""
        model, setting = run.keys[name]
        return {
            "model": model.model,
            "setting": setting.name,
            **_coverage(run.tasks, measured),
            "not_as_planned": measured.not_as_planned,
        }

    def compare(
        self,
        first: MeasuredPairs,
        second: MeasuredPairs,
        config: PairSummaryConfig,
        *,
        strict: bool,
    ) -> dict[str, Any]:
        """`metrics`: name -> as `compare_pairs` has it."""
        if strict and (alone := sorted(first.pair_ids ^ second.pair_ids)):
            task, pair_id = alone[0]
            raise UserError(
                f"{len(alone)} pairs belong to one run only, the first is {pair_id} of {task}; "
                "only results on the same pairs can be compared"
            )
        shared = first.metrics.keys() & second.metrics.keys()
        one, other = (
            {name: pairs for name, pairs in each.metrics.items() if strict or name in shared}
            for each in (first, second)
        )
        return {"metrics": compare_pairs(one, other, config)}

    def legacy(self, run: PairRun, numbers: dict[str, Any]) -> dict[str, Any]:
        """Of one key."""
        return legacy(numbers["metrics"], strict=run.strict)

    def figures(self, summary: Mapping[str, Any]) -> Figures:
        """Accuracies."""
        return pair_figures(summary)

    def warnings(self, run: PairRun, name: str, measured: MeasuredPairs) -> list[str]:
        """That some scores are not what `run` would give."""
        if run.dtype != "bfloat16" or not measured.not_as_planned:
            return []
        return [
            f"{name}: {measured.not_as_planned:,} recordings were heard in smaller batches or "
            "chunks than planned, for want of memory or beside a broken one; in bfloat16 that "
            "moves their scores"
        ]


PAIRS = Pairs()


def _coverage(planned: Sequence[PlannedTask], scored: MeasuredPairs) -> dict[str, Any]:
    """Per task how many pairs have a score, and why the others have none; the lowest share."""
    tasks = {}
    for task in planned:
        there = sum(len(p.pair_ids) for p in scored.metrics.values() if p.task == task.task)
        missing = scored.missing[task.task]
        # What a subsample was drawn from was whole: what had been left out is none of it.
        drawn = task.pairs < task.found
        wanted = task.pairs + (0 if drawn else len(task.left_out))
        tasks[task.task] = {
            "planned": wanted,
            "scored": there,
            "not_scored_yet": task.pairs - there - len(missing),
            "left_out": [asdict(each) for each in (*task.left_out, *missing)],
            "coverage": there / wanted if wanted else None,
        }
    shares = [task["coverage"] for task in tasks.values() if task["coverage"] is not None]
    return {"coverage": min(shares, default=None), "tasks": tasks}
