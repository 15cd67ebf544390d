"""Micro-batches by name, and which of a step's a worker takes: what all plans of windows share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchId:
    """One micro-batch of a run: epochs count from 1, steps and micro-batches from 0."""

    epoch: int
    step: int
    micro: int


def rank_micro_batches(rank: int, world_size: int, micro_batches_per_step: int) -> range:
    """The micro-batches of a step that worker `rank` of `world_size` takes.

    Raises ValueError when they cannot be shared out equally.
    """
    if micro_batches_per_step % world_size:
        raise ValueError(
            f"{micro_batches_per_step} micro-batches per step cannot be shared equally by "
            f"{world_size} workers; choose a number of workers that divides it"
        )
    return range(rank, micro_batches_per_step, world_size)
