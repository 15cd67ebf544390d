"""What a training reports to Ray Train, or to Ray Tune when it is a trial."""

from __future__ import annotations

import math
from collections.abc import Callable

from ttt.training.hooks import Hook
from ttt.training.state import TrainState
from ttt.training.trainee import ValidationResult

WORST_SCORE = -1e30
"""Stands for a loss that is no number: it must not win."""


class ReportHook(Hook):
    """Tells Ray Train or Ray Tune each validation, once its checkpoint is complete.

    Every rank has it, for Ray Train's report is a barrier. Plain finite floats only: anything
    else breaks Ray's snapshot of a run. "score" is always there and larger is better, because Ray
    takes a missing or minimised one for the best.
    """

    def __init__(self, report: Callable[[dict[str, float], str], None]) -> None:
        """`report` gets the numbers and the checkpoint's folder (empty but on the first rank)."""
        self._report = report
        self._values: dict[str, float] | None = None

    def on_validation(self, state: TrainState, result: ValidationResult) -> None:
        values = {
            f"{row}/{name}": value
            for row, metrics in result.rows.items()
            for name, value in metrics.items()
        }
        values = {"validation_loss": result.loss, **values}
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        score = -finite["validation_loss"] if "validation_loss" in finite else WORST_SCORE
        self._values = {
            "step": state.step,
            "epochs": state.epoch - 1,
            "score": score,
            **finite,
        }

    def on_checkpoint(self, state: TrainState, folder: str) -> None:
        if self._values is not None and self._values["step"] == state.step:
            self._report(self._values, folder)
