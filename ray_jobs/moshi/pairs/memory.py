"""What the models of an evaluation of pairs take, and whether they have its streams."""

from __future__ import annotations

from ray_jobs.moshi.models import outlines
from ray_jobs.moshi.pairs.config import EvaluatePairsConfig
from ttt.errors import UserError
from ttt.eval.pairs.score import check_streams
from ttt.moshi.memory import memory_need


def memory_lines(config: EvaluatePairsConfig) -> list[str]:
    """A line per model, or why it cannot be said; refuses streams that a model does not have."""
    lines, model = [], config.model
    for weights, lm in outlines(model, config.controls.inner_steps):
        if isinstance(lm, UserError):
            lines.append(f"{weights}: not known yet ({lm})")
            continue
        for setting in config.settings:
            check_streams(lm, setting.streams)
        longest = max(1, config.batch_frames // config.batch_items)
        need = memory_need(lm, config.batch_items, min(config.chunk, longest + 1), longest + 1)
        lines.append(
            f"{weights}: {need.total / 2**20:,.0f} MiB for {config.batch_items} recordings of "
            f"{longest:,} frames (rings {need.rings / 2**20:,.0f}, TTT {need.ttt / 2**20:,.0f})"
        )
    return lines
