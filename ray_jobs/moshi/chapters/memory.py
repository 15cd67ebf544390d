"""What the models of a chapter evaluation take beside their weights."""

from __future__ import annotations

from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.moshi.models import outlines
from ttt.errors import UserError
from ttt.moshi.memory import memory_need


def memory_lines(config: EvaluateChaptersConfig) -> list[str]:
    """A line per model, or why it cannot be said."""
    lines = []
    for weights, lm in outlines(config.model, config.controls.inner_steps):
        if isinstance(lm, UserError):
            lines.append(f"{weights}: not known yet ({lm})")
            continue
        need = memory_need(lm, config.group_size, config.chunk)
        lines.append(
            f"{weights}: {need.total / 2**20:,.0f} MiB at most (rings {need.rings / 2**20:,.0f}, "
            f"TTT {need.ttt / 2**20:,.0f}, working {need.working / 2**20:,.0f}), whatever the "
            "length"
        )
    return lines
