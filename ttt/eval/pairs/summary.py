"""All summaries of a run over pairs from its stored records: no model, no audio, no Ray.

`rescore(folder)` writes summary.json, legacy.json and plots/; `compare_runs` sets two finished
runs against each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ttt.errors import UserError
from ttt.eval.config import PairSummaryConfig
from ttt.eval.differences import differing_settings, side_names
from ttt.eval.pairs.accuracy import legacy, metric_name, summarize_pairs
from ttt.eval.pairs.compare import compare_pairs
from ttt.eval.pairs.figures import pair_plots
from ttt.eval.pairs.find import LeftOut
from ttt.eval.pairs.records import read_parts
from ttt.eval.pairs.run import PairRunDescription, PlannedTask, items_root
from ttt.eval.pairs.scores import ScoredPairs, scored_pairs
from ttt.eval.run import refuse_other_rounding, write_summary


def rescore(folder: str | Path, config: PairSummaryConfig | None = None) -> dict[str, Any]:
    """Compute everything again, write summary.json, legacy.json and plots/, return the summary.

    Args and errors are those of `summarize_run`.
    """
    run = PairRunDescription.read(folder)
    summary = _summary(folder, run, config or run.summary)
    figures = {
        key: legacy(each["metrics"], strict=run.strict) for key, each in summary["runs"].items()
    }
    write_summary(folder, summary, figures, ("run", run.headline), pair_plots(summary))
    return summary


def summarize_run(folder: str | Path, config: PairSummaryConfig | None = None) -> dict[str, Any]:
    """The summary of a run as its records stand, finished or not; writes nothing.

    Args:
        config: other settings than the run's own.

    Raises:
        UserError: not a run's folder, or records are damaged.
    """
    run = PairRunDescription.read(folder)
    return _summary(folder, run, config or run.summary)


def compare_runs(
    first: str | Path, first_key: str, second: str | Path, second_key: str
) -> dict[str, Any]:
    """`compare_pairs` for two finished runs, each with the key of a model and setting.

    The first run's settings hold.

    Raises:
        UserError: no such run or key, other pairs, other codes, or bfloat16 computed otherwise.
    """
    (run, one), (_, other) = _sides((first, first_key), (second, second_key))
    return compare_pairs(one.metrics, other.metrics, run.summary)


def summarize_comparison(
    first: str | Path, first_key: str, second: str | Path, second_key: str
) -> dict[str, Any]:
    """`compare_runs` as the summary of a run that held both, for its pictures and pages.

    Names say which run each is of where they would be the same.
    """
    sides = _sides((first, first_key), (second, second_key))
    names = side_names((str(first), first_key), (str(second), second_key))
    (run, one), (other_run, other) = sides
    config = run.summary
    warned = {str(first): (run, {}), str(second): (other_run, {})}
    for folder, key, scored in ((first, first_key, one), (second, second_key, other)):
        warned[str(folder)][1][key] = scored
    return {
        "run": {"summary": asdict(config)},
        "sides": [
            {"run": str(folder), "key": key, "described": asdict(each)}
            for (folder, key), (each, _) in zip(
                ((first, first_key), (second, second_key)), sides, strict=True
            )
        ],
        "warnings": [
            f"{folder}: {text}"
            for folder, (each, scored) in warned.items()
            for text in (*each.warnings, *_moved(each, scored))
        ],
        "runs": {
            name: {
                "metrics": {
                    metric: summarize_pairs(pairs, config)
                    for metric, pairs in scored.metrics.items()
                }
            }
            for name, (_, scored) in zip(names, sides, strict=True)
        },
        "comparisons": [
            {
                "first": names[0],
                "second": names[1],
                "differs": differing_settings(run, first_key, other_run, second_key),
                "metrics": compare_pairs(one.metrics, other.metrics, config),
            }
        ],
    }


def _sides(*named: tuple[str | Path, str]) -> list[tuple[PairRunDescription, _Scored]]:
    """Runs and what the keys' records hold. Raises as `compare_runs`."""
    runs, sides = [], []
    for folder, key in named:
        run = PairRunDescription.read(folder)
        runs.append((folder, vars(run)))
        if key not in run.keys:
            raise UserError(f"{folder}: has no {key}; it has {', '.join(run.keys)}")
        sides.append((run, _read(folder, run, key)))
    refuse_other_rounding(*runs, names=("chunk", "batch_items", "batch_frames"))
    if alone := sorted(sides[0][1].pair_ids ^ sides[1][1].pair_ids):
        task, pair_id = alone[0]
        raise UserError(
            f"{len(alone)} pairs belong to one run only, the first is {pair_id} of {task}; only "
            "results on the same pairs can be compared"
        )
    return sides


def _summary(
    folder: str | Path, run: PairRunDescription, config: PairSummaryConfig
) -> dict[str, Any]:
    scored = {key: _read(folder, run, key) for key in run.keys}
    runs = {
        key: {
            "model": model.model,
            "setting": setting.name,
            **_coverage(run.tasks, scored[key]),
            "not_as_planned": scored[key].not_as_planned,
            "metrics": {
                name: summarize_pairs(pairs, config) for name, pairs in scored[key].metrics.items()
            },
        }
        for key, (model, setting) in run.keys.items()
    }
    first, *others = run.keys
    return {
        "run": {**asdict(run), "summary": config.to_dict()},
        "warnings": [*run.warnings, *_moved(run, scored)],
        "runs": runs,
        "comparisons": [
            {
                "first": first,
                "second": other,
                "differs": differing_settings(run, first, run, other),
                "metrics": _compare_shared(scored[first], scored[other], config),
            }
            for other in others
        ],
    }


@dataclass(frozen=True)
class _Scored:
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


def _read(folder: str | Path, run: PairRunDescription, key: str) -> _Scored:
    metrics: dict[str, ScoredPairs] = {}
    missing: dict[str, list[LeftOut]] = {}
    not_as_planned = 0
    for planned in run.tasks:
        records = list(read_parts(items_root(folder, key), planned.task))
        not_as_planned += sum(record.as_planned is False for record in records)
        by_split, missing[planned.task] = scored_pairs(records)
        metrics |= {metric_name(pairs): pairs for pairs in by_split}
    return _Scored(metrics, missing, not_as_planned)


def _moved(run: PairRunDescription, scored: Mapping[str, _Scored]) -> list[str]:
    """A warning per model and setting of which some scores are not what `run` would give."""
    if run.dtype != "bfloat16":
        return []
    return [
        f"{key}: {each.not_as_planned:,} recordings were heard in smaller batches or chunks than "
        "planned, for want of memory or beside a broken one; in bfloat16 that moves their scores"
        for key, each in scored.items()
        if each.not_as_planned
    ]


def _coverage(planned: Sequence[PlannedTask], scored: _Scored) -> dict[str, Any]:
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


def _compare_shared(
    first: _Scored, second: _Scored, config: PairSummaryConfig
) -> dict[str, dict[str, Any]]:
    """Within a run that is under way, one side may be ahead of the other."""
    shared = first.metrics.keys() & second.metrics.keys()
    return compare_pairs(
        {name: first.metrics[name] for name in shared},
        {name: second.metrics[name] for name in shared},
        config,
    )
