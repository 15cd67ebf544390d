"""What an evaluation of pairs will do: shards under models and streams, found without weights.

A shard is so many pairs of one task in the order of their ids: a function of the pairs alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from ray_jobs.moshi.pairs.config import EvaluatePairsConfig, PairTaskConfig
from ray_jobs.moshi.wanted import (
    NamedModel,
    loads_no_model,
    named_models,
    with_absolute_paths,
)
from ttt import storage
from ttt.errors import UserError
from ttt.eval.config import StreamSetting
from ttt.eval.pairs.find import Pair, find_pairs, subsample, task_title
from ttt.eval.pairs.records import is_complete, part_path
from ttt.eval.pairs.run import PlannedTask, items_root, run_key


@dataclass(frozen=True)
class WorkItem:
    """The unit of dispatch: a shard under one model and one setting of the streams."""

    number: int
    model: NamedModel
    setting: StreamSetting
    task: str
    part: int
    pairs: tuple[Pair, ...]

    def path(self, output: str) -> Path:
        """Its part file."""
        root = items_root(output, run_key(self.model.name, self.setting.name))
        return part_path(root, self.task, self.part)


@dataclass(frozen=True)
class Plan:
    """Everything a run will do; paths in it are absolute, since workers have their own folder."""

    given: EvaluatePairsConfig
    """As the user gave it, which is what config.yaml keeps."""
    config: EvaluatePairsConfig
    models: tuple[NamedModel, ...]
    tasks: tuple[PlannedTask, ...]
    work: tuple[WorkItem, ...]
    """Model by model, setting by setting, task by task."""
    warnings: tuple[str, ...]

    def pending(self) -> list[WorkItem]:
        """Shards without a part file, or with one that holds errors."""
        return [each for each in self.work if not is_complete(each.path(self.config.output))]


def make_plan(config: EvaluatePairsConfig) -> Plan:
    """Find the pairs. Raises UserError for what cannot be found or does not fit."""
    given, config = config, with_absolute_paths(config)
    config = replace(config, tasks={name: _absolute(task) for name, task in config.tasks.items()})
    planned: list[PlannedTask] = []
    shards: list[tuple[str, int, tuple[Pair, ...]]] = []
    for task, where in config.tasks.items():
        if where is None:
            continue
        described, pairs = _find(config, task, where)
        size = config.pairs_per_shard
        planned.append(described)
        shards += [(task, at // size, pairs[at : at + size]) for at in range(0, len(pairs), size)]
    work: list[WorkItem] = []
    models = named_models(config.model, config.controls)
    for model in models:
        for setting in config.settings:
            work += [
                WorkItem(len(work) + n, model, setting, *shard) for n, shard in enumerate(shards)
            ]
    warnings = tuple(_warnings(config, planned))
    return Plan(given, config, tuple(models), tuple(planned), tuple(work), warnings)


def describe(plan: Plan) -> str:
    """The plan in words."""
    config, cluster = plan.config, plan.config.cluster
    models = ", ".join(model.name for model in plan.models)
    items = 2 * sum(task.pairs for task in plan.tasks)
    settings = len(config.settings)
    lines = [
        f"score {items:,} recordings of {len(plan.tasks)} tasks with {models} under {settings} "
        f"setting{'s' * (settings > 1)} of the streams: {len(plan.work):,} shards",
        *(f"  {_described(task)}" for task in plan.tasks),
        *(
            f"  streams, {each.name}: text {each.text}, other {each.other}, the recording is "
            f"{each.voice}"
            for each in config.settings
        ),
        f"  steps per pass: {config.chunk}, per batch: {config.batch_items} recordings, "
        f"{config.batch_frames:,} frames",
        *_memory(plan),
        f"  workers: {cluster.words} on {cluster.device}, each {cluster.cpus_per_worker:g} "
        f"CPU and {cluster.gpus_per_worker:g} GPU",
        f"  writes: {config.output}/items, summary.json, legacy.json, plots, report.html",
        *(f"warning: {text}" for text in plan.warnings),
    ]
    return "\n".join(lines)


def _memory(plan: Plan) -> list[str]:
    """A line per model that may be loaded; refuses streams that it does not have."""
    if loads_no_model(plan.config.output, plan.pending):
        return ["  nothing is left to score: no model is loaded"]
    # Brings torch and Moshi, which a finished run is described without.
    from ray_jobs.moshi.pairs.memory import memory_lines

    return [f"  memory beyond the weights, {line}" for line in memory_lines(plan.config)]


def _absolute(task: PairTaskConfig | None) -> PairTaskConfig | None:
    """With absolute paths."""
    if task is None:
        return None
    gold = None if task.gold is None else storage.absolute(task.gold)
    return replace(task, root=storage.absolute(task.root), gold=gold)


def _find(
    config: EvaluatePairsConfig, task: str, where: PairTaskConfig
) -> tuple[PlannedTask, tuple[Pair, ...]]:
    try:
        found = find_pairs(task, where.root, where.gold)
    except UserError as error:
        raise UserError(f"tasks.{task}: {error}; tasks.{task}=null leaves it out") from error
    whole, lost = len(found.pairs), len(found.left_out)
    if whole < config.min_coverage * (whole + lost):
        raise UserError(
            f"tasks.{task}: {lost:,} of {whole + lost:,} pairs are not whole, the first "
            f"{found.left_out[0].pair_id} ({found.left_out[0].reason}); complete the data set, or "
            f"lower min_coverage={config.min_coverage:g}"
        )
    chosen = subsample(found, where.max_pairs, config.seed)
    described = PlannedTask(
        task=task,
        root=where.root,
        found=whole,
        pairs=len(chosen.pairs),
        pairs_sha256=chosen.sha256,
        parts=math.ceil(len(chosen.pairs) / config.pairs_per_shard),
        max_pairs=where.max_pairs,
        left_out=found.left_out,
    )
    return described, chosen.pairs


def _described(task: PlannedTask) -> str:
    drawn = "" if task.pairs == task.found else f" of {task.found:,}"
    lost = f", {len(task.left_out):,} left out" if task.left_out else ""
    return f"{task_title(task.task)}: {task.pairs:,}{drawn} pairs in {task.root}{lost}"


def _warnings(config: EvaluatePairsConfig, tasks: list[PlannedTask]) -> list[str]:
    confused = [setting.name for setting in config.settings if setting.text == "silence_codes"]
    if not confused:
        return []
    errors = ", ".join(
        f"{100 * math.sqrt(0.6 * 0.4 / task.pairs):.1f} points for {task_title(task.task)}"
        for task in tasks
    )
    return [
        f"{', '.join(confused)} fills the text stream with audio codes of silence: numbers of "
        "another vocabulary, which the model reads as arbitrary words of text. The 2 to 6 % once "
        "claimed for it came without an interval; at an accuracy of 60 % the standard error here "
        f"is {errors}. Compare with other streams (against) before believing a gain"
    ]
