"""What is trained, as the machinery on Ray sees it: all that it does not know itself.

A job of this kind plans once, on the driver. What it planned is an object of this class, which
travels to every worker; the machinery asks it there for the trainee, the batches and the settings
of the loop. What a process loads, it loads at its first use and does not send along.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch

from ray_jobs.training.config import ClusterConfig, TrackingConfig
from ray_jobs.training.stream import BatchStream
from ttt import checkpoint
from ttt.training.config import CheckpointConfig
from ttt.training.hooks import Hook
from ttt.training.loop import BatchSource, LoopSettings
from ttt.training.schedules import EpochPlan
from ttt.training.state import TrainState, plan_of
from ttt.training.trainee import Trainee

Batch = TypeVar("Batch")


class Validates(Protocol):
    """When a training validates."""

    @property
    def every_steps(self) -> int | None: ...


class Optimises(Protocol):
    """What the loop itself reads of the optimizer's keys."""

    @property
    def ema_decay(self) -> float | None: ...
    @property
    def max_skipped_in_row(self) -> int: ...


class TrainingConfig(Protocol):
    """What every training is told, whatever it trains."""

    @property
    def run(self) -> str: ...
    @property
    def validation(self) -> Validates: ...
    @property
    def optim(self) -> Optimises: ...
    @property
    def checkpoint(self) -> CheckpointConfig: ...
    @property
    def cluster(self) -> ClusterConfig: ...
    @property
    def tracking(self) -> TrackingConfig: ...

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class TrainingJob(ABC, Generic[Batch]):
    """A training that is planned; picklable."""

    command: ClassVar[str]
    """Of ray_jobs, that trains it."""
    item_name: ClassVar[str] = "items"
    """What a batch holds, in messages: clips, windows."""
    shown_terms: ClassVar[Mapping[str, str]] = {"loss": "total"}
    """Name in the progress line -> the loss term that is shown."""

    config: TrainingConfig
    """With absolute paths, since workers run in folders of their own."""
    epochs: tuple[EpochPlan, ...]
    """The whole run, in order."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return sum(epoch.steps for epoch in self.epochs)

    def loop_settings(self) -> LoopSettings:
        """What the loop reads, and what a resumed run must keep."""
        config = self.config
        return LoopSettings(
            run=config.run,
            plan=plan_of(self.epochs, **self.kept()),
            checkpoint=config.checkpoint,
            validate_every_steps=config.validation.every_steps,
            ema_decay=config.optim.ema_decay,
            max_skipped_in_row=config.optim.max_skipped_in_row,
            require_same_plan=self.require_same_plan,
        )

    @abstractmethod
    def kept(self) -> dict[str, Any]:
        """What a resumed run must keep beside its steps: settings, and what is read, by digest."""

    def require_same_plan(
        self, folder: str, stored: dict[str, Any], current: dict[str, Any]
    ) -> None:
        """Raise UserError where the checkpoint in `folder` was made under another plan."""
        checkpoint.require_same_plan(folder, stored, current)

    @abstractmethod
    def trainee(self, device: torch.device) -> Trainee[Batch]:
        """What the loop trains, on `device`."""

    @abstractmethod
    def windows_per_step(self, epoch: int) -> int:
        """Windows that a step of this epoch sees, over all workers."""

    @abstractmethod
    def stream(self) -> BatchStream[Batch]:
        """The batches, for Ray Data's tasks to make."""

    @abstractmethod
    def local_source(self) -> BatchSource[Batch]:
        """The same batches, all read in this process."""

    def hooks(self) -> Sequence[Hook]:
        """Who else listens on the first rank."""
        return ()

    def show_example(self, board: Any, index: int, example: Any, step: int) -> None:
        """Show one of a validation's examples on a TensorBoard (SummaryWriter)."""
        del board, index, example, step

    def notes(self, state: TrainState, *, finished: bool) -> list[str]:
        """What a user should know of where it ended, in sentences."""
        del state, finished
        return []


def require_resumable(job: TrainingJob[Any]) -> None:
    """Raises UserError when the run's newest checkpoint was made under another plan."""
    newest = checkpoint.newest_complete(job.config.run)
    if newest is not None:
        settings = job.loop_settings()
        stored = checkpoint.read_state(newest)["plan"]
        settings.require_same_plan(newest, stored, settings.plan)


def steps_done(run: str) -> int:
    """Steps of the run's newest checkpoint; 0 without one."""
    steps = checkpoint.complete_steps(run)
    return steps[-1] if steps else 0
