"""ViSQOL of an evaluation's clips, after all else: by then the tricks' levels are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray_jobs.decoder.evaluate.plan import VISQOL_NOT_INSTALLED, Item
from ray_jobs.decoder.evaluate_config import EvaluateConfig
from ray_jobs.runtime.items import WorkerDied, Workers
from ray_jobs.runtime.progress import Progress
from ttt.snac.evaluation.trick_levels import Level
from ttt.snac.evaluation.visqol import (
    Scores,
    is_installed,
    missing,
    spread_evenly,
    summarize_visqol,
)


def score_clips(
    config: EvaluateConfig,
    items: Sequence[Item],
    lines: Sequence[Mapping[str, Any]],
    levels: Mapping[str, Level],
    workers: Workers,
) -> dict[str, Scores] | None:
    """Clip -> system -> score, of the measured `lines` evenly spread; None without ViSQOL."""
    if config.report.visqol is False or not is_installed():
        return None
    known = {line["clip_id"] for line in lines}
    there = [item for item in items if item.clip_id in known]
    chosen = [there[k] for k in spread_evenly(len(there), config.report.visqol_clips)]
    scores: dict[str, Scores] = {}
    with Progress("ViSQOL", len(chosen), "clips") as progress:
        for item, result in workers.each("visqol", chosen, levels, progress=progress):
            if result is not None and not isinstance(result, WorkerDied):
                scores[item.clip_id] = result
            progress.advance(1, scored=len(scores))
    return scores


def with_scores(
    lines: Sequence[dict[str, Any]], scores: Mapping[str, Scores] | None
) -> list[dict[str, Any]]:
    """The lines of results.jsonl with the key visqol where there are scores, and nowhere else.

    Without `scores` they keep what an earlier start scored.
    """
    if scores is None:
        return list(lines)
    found = []
    for line in lines:
        plain = {key: value for key, value in line.items() if key != "visqol"}
        score = scores.get(line["clip_id"])
        found.append(plain if score is None else {**plain, "visqol": score})
    return found


def visqol_of(
    config: EvaluateConfig, lines: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any]
) -> dict[str, Any]:
    """What summary.json says of ViSQOL, or why it says nothing."""
    if config.report.visqol is False:
        return missing("report.visqol is false")
    if not is_installed():
        return missing(VISQOL_NOT_INSTALLED)
    return summarize_visqol(
        [line.get("visqol") for line in lines],
        [line.get("speaker") for line in lines],
        verdict,
        seed=config.bootstrap.seed,
        resamples=config.bootstrap.resamples,
    )
