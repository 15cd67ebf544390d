"""A run over windows of Moshi in numbers: its stages, and the learning rates of every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ttt.moshi.training.config import GROUPS, Group, MoshiOptimConfig, WindowStageConfig
from ttt.training.schedules import EpochPlan, one_cycle, warm_cosine


@dataclass(frozen=True)
class WindowStage(EpochPlan):
    """One stage, which the loop takes for an epoch; all are of one phase, under one schedule."""

    config: WindowStageConfig


def plan_stages(stages: Sequence[WindowStageConfig]) -> tuple[WindowStage, ...]:
    """The stages with the steps before them."""
    total = sum(stage.steps for stage in stages)
    return tuple(
        WindowStage(
            number=index + 1,
            phase=1,
            steps=stage.steps,
            first_step=sum(earlier.steps for earlier in stages[:index]),
            phase_first_step=0,
            phase_steps=total,
            config=stage,
        )
        for index, stage in enumerate(stages)
    )


def learning_rates(config: MoshiOptimConfig, step: int, total_steps: int) -> dict[Group, float]:
    """Group -> learning rate of a run's step (from 0).

    Raises ValueError outside 0 <= step < total_steps.
    """
    follow = one_cycle if config.schedule == "one_cycle" else warm_cosine
    return {
        group: follow(
            step,
            total_steps,
            peak=getattr(config.peak_rates, group),
            warmup_fraction=config.warmup_fraction,
            initial_div=config.initial_div,
            final_div=config.final_div,
        )
        for group in GROUPS
    }
