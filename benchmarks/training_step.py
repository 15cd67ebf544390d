"""One step of a training as the loop takes it, without data, ranks and records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ttt.training.optim import Update, move_weights
from ttt.training.trainee import Trainee

Batch = TypeVar("Batch")


def training_step(
    trainee: Trainee[Batch],
    updates: Sequence[Update],
    batches: Sequence[Batch],
    *,
    step: int = 0,
    move: bool = True,
) -> None:
    """Forward and backward of these micro-batches, and the update where weights are to move."""
    names = [update.name for update in updates]
    trainee.accumulate(batches, trainee.denominators(batches), step=step, due=names)
    if move:
        rates = trainee.rates(trainee.epochs[0], step)
        for update in updates:
            update.set_rates(rates)
            update.clip()
        move_weights(updates, step)
    for update in updates:
        update.optimizer.zero_grad(set_to_none=True)
