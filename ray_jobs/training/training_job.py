"""What is trained, as the machinery on Ray sees it: all that it does not know itself.

A job of this kind plans once, on the driver. What it planned is an object of this class, which
travels to every worker; the machinery asks it there for the trainee, the batches and the settings
of the loop. What a process loads, it loads at its first use and does not send along.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch

from ray_jobs.training.config import ClusterConfig, TrackingConfig
from ray_jobs.training.stream import BatchStream
from ttt import checkpoint
from ttt.training.hooks import Hook
from ttt.training.loop import BatchSource, LoopSettings
from ttt.training.state import TrainState
from ttt.training.trainee import Trainee

Batch = TypeVar("Batch")


class TrainingJob(ABC, Generic[Batch]):
    """A training that is planned; picklable."""

    item_name: str = "items"
    """What a batch holds, in messages: clips, windows."""
    shown_terms: Mapping[str, str] = {"loss": "total"}
    """Name in the progress line -> the loss term that is shown."""

    @property
    @abstractmethod
    def run(self) -> str:
        """The run's folder or URI, absolute."""

    @property
    @abstractmethod
    def cluster(self) -> ClusterConfig:
        """Workers."""

    @property
    @abstractmethod
    def tracking(self) -> TrackingConfig:
        """Trackers."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The configuration as a plain tree, for trackers."""

    @property
    @abstractmethod
    def total_steps(self) -> int:
        """Steps of the whole run."""

    @property
    @abstractmethod
    def last_epoch(self) -> int:
        """The number of the last epoch."""

    @abstractmethod
    def loop_settings(self) -> LoopSettings:
        """What the loop reads, and what a resumed run must keep."""

    @abstractmethod
    def trainee(self, device: torch.device) -> Trainee[Batch]:
        """What the loop trains, on `device`."""

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
    newest = checkpoint.newest_complete(job.run)
    if newest is not None:
        settings = job.loop_settings()
        stored = checkpoint.read_state(newest)["plan"]
        settings.require_same_plan(newest, stored, settings.plan)


def steps_done(run: str) -> int:
    """Steps of the run's newest checkpoint; 0 without one."""
    steps = checkpoint.complete_steps(run)
    return steps[-1] if steps else 0
