"""What the training loop tells its listeners."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ttt.training.state import TrainState
from ttt.training.trainee import ValidationResult


@dataclass(frozen=True)
class StepRecord:
    """What happened in one step; the same on every rank but for the times."""

    step: int
    """Steps taken, this one included."""
    epoch: int
    phase: int
    terms: dict[str, float]
    """Loss terms, "total" among them; over all ranks."""
    learning_rates: dict[str, float]
    """By group."""
    grad_norms: dict[str, float]
    """By update that was due; before clipping."""
    taken: bool
    """False when a loss or a gradient was not finite."""
    denominators: dict[str, float]
    """What the losses were divided by, by name; over all ranks."""
    replaced: list[str]
    """Damaged items of the step, each with its reason and the one that took its place."""
    data_wait_seconds: float
    """Time this rank waited for its batches."""
    step_seconds: float
    """Time of the whole step, the wait included."""

    @property
    def grad_norm(self) -> float:
        """Over all updates."""
        return math.hypot(*self.grad_norms.values())


class Hook:
    """A listener. Each method is called on every rank that passed the hook, at the same steps."""

    def on_start(self, state: TrainState) -> None:
        """The run begins, or continues after `state.step` steps."""

    def on_step(self, record: StepRecord) -> None:
        """A step was taken or skipped."""

    def on_validation(self, state: TrainState, result: ValidationResult) -> None:
        """A validation ended; at step 0 it shows the untrained model."""

    def on_turn_back(self, state: TrainState, why: str) -> None:
        """The weights are the best checkpoint's again, and training goes on from them."""

    def on_checkpoint(self, state: TrainState, folder: str) -> None:
        """A checkpoint is complete."""
