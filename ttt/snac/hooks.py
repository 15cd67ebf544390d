"""What the training loop tells its listeners."""

from __future__ import annotations

from dataclasses import dataclass

from ttt.snac.train.validation import ValidationResult
from ttt.snac.train_state import TrainState


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
    grad_norm: float
    """Before clipping."""
    taken: bool
    """False when the loss or the gradient was not finite."""
    valid_samples: int
    """Valid 48 kHz samples in the step, over all ranks."""
    replaced: list[str]
    """Damaged clips of the step, each with its reason and the clip that took its place."""
    data_wait_seconds: float
    """Time this rank waited for its batches."""
    step_seconds: float
    """Time of the whole step, the wait included."""


class Hook:
    """A listener. Each method is called on every rank that passed the hook, at the same steps."""

    def on_start(self, state: TrainState) -> None:
        """The run begins, or continues after `state.step` steps."""

    def on_step(self, record: StepRecord) -> None:
        """A step was taken or skipped."""

    def on_validation(self, state: TrainState, result: ValidationResult) -> None:
        """A validation ended; at step 0 it shows the untrained model."""

    def on_checkpoint(self, state: TrainState, folder: str) -> None:
        """A checkpoint is complete."""
