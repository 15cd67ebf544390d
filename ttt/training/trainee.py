"""What is trained, as the loop sees it: one object that says everything the loop does not know.

A trainee owns networks, a loss and data of one kind. The loop owns steps, ranks, checkpoints and
hooks. Each step the loop asks for the gradients of all updates that are due, sums them over the
ranks, checks once that everything is finite, and takes the updates in their order: one bad number
leaves out the whole step, so no network moves without the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from ttt.training.optim import Update
from ttt.training.ranks import Communicator
from ttt.training.schedules import EpochPlan

Batch = TypeVar("Batch")
Tensors = dict[str, Tensor]
Row = dict[str, float]

MAIN = "model"
"""The file of the network that is averaged, validated and exported."""


@dataclass(frozen=True)
class ValidationResult:
    """What a validation found: means over the validation items."""

    loss: float
    """The lowest is the best, unless the trainee says otherwise. A value that should
    be high is negated."""
    terms: Row
    """Loss term -> mean."""
    rows: dict[str, Row]
    """Row name -> metric -> mean; the reference rows only when they were asked for."""
    examples: Sequence[Any] = field(default_factory=list)
    """What trackers may show, on the rank that has it."""
    by_item: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    """Row name -> the row of each validation item, of which `rows` has the means; the items are the
    same in every validation. Empty where a validation tells means alone."""
    value: float | None = None
    """What decides instead of the loss, which the loop notes before it tells anyone."""

    @property
    def decides(self) -> float:
        """What the lowest of is the best."""
        return self.loss if self.value is None else self.value


class Validation(Protocol):
    """Measures the weights of the moment."""

    @property
    def reference_rows(self) -> Sequence[str]:
        """The rows that training does not change: measured at step 0 and kept."""
        ...

    def __call__(self, group: Communicator, *, untrained: bool) -> ValidationResult:
        """Measure, shared over the ranks; with the reference rows when `untrained`."""
        ...


class Trainee(ABC, Generic[Batch]):
    """What is trained. Each method does the same on every rank unless it says otherwise."""

    epochs: Sequence[EpochPlan]
    """The whole run, in order."""
    validation: Validation | None = None
    """What chooses the best step; None trains without."""
    item_name: str = "items"
    """What a batch holds, in messages: clips, chapters."""
    rate_key: str = "the learning rate"
    """What a user lowers when a run diverges, in messages."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where sums over the ranks are made."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensors]:
        """File name -> name -> the live tensor: what is saved, restored, averaged and compared.

        What training changes belongs here, what is frozen belongs into the plan as a digest. The
        file `model` holds what is averaged, validated and exported.
        """

    @abstractmethod
    def updates(self, phase: int) -> list[Update]:
        """Begin `phase`: free and freeze what it says and return its updates, in order.

        A restored run calls it too, and puts the saved state into the optimizers.
        """

    @abstractmethod
    def rates(self, epoch: EpochPlan, step: int) -> dict[str, float]:
        """Group name -> learning rate of the run's step (from 0): a pure function."""

    @abstractmethod
    def denominators(self, batches: Sequence[Batch]) -> dict[str, float]:
        """What this rank's batches count of each thing that a loss is divided by."""

    @abstractmethod
    def accumulate(
        self,
        batches: Sequence[Batch],
        denominators: Mapping[str, float],
        *,
        step: int,
        due: Collection[str],
    ) -> dict[str, Tensor]:
        """Add the gradients of the updates named in `due`; this rank's share of the terms, [] each.

        `denominators` are the whole step's, over all ranks. Every update's gradient is taken at
        the weights before the step, and reaches its own parameters only. The terms hold "total",
        and are the same names on every rank.
        """

    def value(self, result: ValidationResult) -> float | None:
        """What the lowest of is the best, where it is not the loss; `result` has all rows."""
        del result

    def turns_back(self, result: ValidationResult, step: int) -> str | None:
        """Why training goes back to the best checkpoint's weights after this validation, or None.

        It goes on from there at the step where it is, with the `updates` of its phase.
        """
        del result, step

    def own_state(self) -> dict[str, Any]:
        """What else a checkpoint must hold, for JSON; the same on every rank."""
        return {}

    def take_state(self, stored: Mapping[str, Any]) -> None:
        """Continue from an `own_state`; before the `updates` of a restored run."""
        del stored

    @abstractmethod
    def item_ids(self, batch: Batch) -> Sequence[str]:
        """Names of what the batch holds, for messages."""

    def replaced(self, batches: Sequence[Batch]) -> list[str]:
        """One line for each damaged item whose place another took, on this rank."""
        del batches
        return []
