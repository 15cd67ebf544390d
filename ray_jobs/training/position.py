"""Where a training is: what its progress line shows, and the values of its gauges.

The first worker notes it each step; who looks at it, a thread or a process, keeps its own pace.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_jobs.runtime.gauges import Values
from ray_jobs.training.training_job import TrainingJob
from ttt.training.hooks import Hook, StepRecord
from ttt.training.state import TrainState
from ttt.training.trainee import ValidationResult


@dataclass(frozen=True)
class Position:
    """Where a training is."""

    step: int
    shown: Mapping[str, float | None]
    """Losses by name; None where there is none now."""
    data_wait_share: float
    """Of the step time since the worker started."""
    measured: Values
    """By gauge."""

    def fields(self) -> dict[str, object]:
        """What a progress line shows beside the count of steps."""
        return {**self.shown, "data_wait": f"{self.data_wait_share:.1%}"}


class PositionHook(Hook):
    """Tells how far the run is, what it measured, and how much of its time waited for data."""

    def __init__(self, show: Callable[[Position], None], job: TrainingJob[Any]) -> None:
        self._show = show
        self._job = job
        self._waited = self._elapsed = 0.0
        self._recent = _Recent()
        self._validated: dict[str, float] = {}
        self._skipped = self._replaced = 0
        self._last = Position(0, {}, 0.0, {})

    def on_start(self, state: TrainState) -> None:
        self._skipped, self._replaced = state.skipped, state.replaced
        self._note_best(state)
        self._move_to(Position(state.step, {}, 0.0, self._counted()))

    def on_step(self, record: StepRecord) -> None:
        self._waited += record.data_wait_seconds
        self._elapsed += record.step_seconds
        self._skipped += not record.taken
        self._replaced += len(record.replaced)
        self._recent.add(record, self._job.windows_per_step(record.epoch))
        finite = {name: loss for name, loss in record.terms.items() if math.isfinite(loss)}
        shown = {name: finite.get(term) for name, term in self._job.shown_terms.items()}
        measured: Values = {
            "ttt_loss": record.terms,
            "ttt_learning_rate": record.learning_rates,
            "ttt_grad_norm": record.grad_norm,
            "ttt_epoch": record.epoch,
            "ttt_phase": record.phase,
            **self._recent.measured,
            **self._counted(),
        }
        self._move_to(Position(record.step, shown, self._waited / self._elapsed, measured))

    def on_validation(self, state: TrainState, result: ValidationResult) -> None:
        self._validated["ttt_validation_loss"] = result.loss
        self._note_best(state)
        measured = {**self._last.measured, **self._validated}
        self._move_to(dataclasses.replace(self._last, measured=measured))

    def _move_to(self, position: Position) -> None:
        self._last = position
        self._show(position)

    def _note_best(self, state: TrainState) -> None:
        if state.best_value is not None:
            self._validated["ttt_best_loss"] = state.best_value

    def _counted(self) -> Values:
        counts = {"ttt_skipped_steps": self._skipped, "ttt_replaced_items": self._replaced}
        return {**counts, **self._validated}


_RECENT_SECONDS = 10.0


class _Recent:
    """Speeds over the newest steps that took ten seconds together, or one step that took longer."""

    def __init__(self) -> None:
        self.measured: Values = {}
        self._whole = False
        self._begin()

    def _begin(self) -> None:
        self._windows = self._steps = 0
        self._seconds = self._waited = 0.0

    def add(self, record: StepRecord, windows: int) -> None:
        """One more step, of so many windows."""
        self._windows += windows
        self._steps += 1
        self._seconds += record.step_seconds
        self._waited += record.data_wait_seconds
        over = self._seconds >= _RECENT_SECONDS
        if over or not self._whole:  # The first seconds are told as they come.
            self.measured = {
                "ttt_windows_per_second": self._windows / self._seconds,
                "ttt_data_wait_share": self._waited / self._seconds,
                "ttt_step_seconds": self._seconds / self._steps,
            }
        if over:
            self._whole = True
            self._begin()
