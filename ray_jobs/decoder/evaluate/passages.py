"""Passages of an evaluation's clips, to see and hear: chosen by rank, or by those who compare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray_jobs.decoder.evaluate.plan import Plan
from ray_jobs.reports.examples import Example
from ray_jobs.runtime.items import WorkerDied, Workers
from ttt.snac.evaluate import Passage
from ttt.snac.evaluation.systems import BASELINE, FOLDING_HISS, OURS, value
from ttt.snac.evaluation.trick_levels import Level
from ttt.snac.evaluation.visqol import spread_evenly


def ranked_examples(
    plan: Plan,
    workers: Workers,
    clips: Sequence[dict[str, Any]],
    levels: Mapping[str, Level],
) -> list[Example]:
    """Passages of clips at even ranks from the best to the worst, with the strongest trick."""
    config = plan.config
    ranked, ratios = by_lsd_ratio(clips, OURS, BASELINE)
    if not config.report.examples:
        return []
    ranks = spread_evenly(len(ranked), config.report.examples)
    item_of = {item.clip_id: item for item in plan.items}
    chosen = {ranked[rank]["clip_id"]: rank for rank in ranks}
    wanted = [item_of[clip_id] for clip_id in chosen]
    strongest = {name: level for name, level in levels.items() if name == FOLDING_HISS}
    passages = workers.each("render", wanted, config.report.example_seconds, strongest)
    examples = []
    for item, passage in passages:
        if not isinstance(passage, WorkerDied):
            rank = chosen[item.clip_id]
            ratio = ratios[item.clip_id]
            size = f"{ratio:.2f} times resampling's" if math.isfinite(ratio) else "undefined"
            place = f"{_place(rank, len(ranked))}: LSD {size}"
            examples.append(
                (rank, Example(item.clip_id, place, passage.start_seconds, passage.audio))
            )
    return [example for _, example in sorted(examples, key=lambda pair: pair[0])]


def middle_passages(plan: Plan, workers: Workers, wanted: Sequence[str]) -> dict[str, Passage]:
    """Clip -> its middle in all versions, of those whose workers lived."""
    item_of = {item.clip_id: item for item in plan.items}
    items = [item_of[clip_id] for clip_id in wanted]
    found = workers.each("render", items, plan.config.report.example_seconds, {})
    return {item.clip_id: passage for item, passage in found if not isinstance(passage, WorkerDied)}


def _place(rank: int, count: int) -> str:
    names = {count - 1: "worst", 0: "best"}
    return names.get(rank, f"rank {rank + 1}") + f" of {count}"


def by_lsd_ratio(
    clips: Sequence[Mapping[str, Any]], system: str, against: str
) -> tuple[list[Mapping[str, Any]], dict[str, float]]:
    """Clips in the order of `system`'s LSD over that of `against`, and clip -> that ratio.

    It is infinite, so that it ranks last, where it is undefined.
    """
    ratios = {}
    for clip in clips:
        ours, theirs = (value(clip["systems"], each, "lsd") for each in (system, against))
        ratios[clip["clip_id"]] = (
            math.inf if ours is None or theirs is None else ours / max(theirs, 1e-12)
        )
    return sorted(clips, key=lambda clip: (ratios[clip["clip_id"]], clip["clip_id"])), ratios
