"""Running the training loop in this process, and what every way of running it shares.

`ray_jobs.decoder.train.worker` runs the same loop in Ray Train's workers. They differ in where the
batches come from and in whom the ranks talk to.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ray_jobs.decoder.train.setup import TrainPlan, decoder_trainee, loop_settings
from ray_jobs.decoder.train.trackers import build_trackers
from ray_jobs.runtime.connection import require_gpu_here
from ray_jobs.runtime.progress import Progress
from ttt import checkpoint
from ttt.snac.train.adversarial import LOSS, CollapseWarning
from ttt.snac.train.guards import held
from ttt.snac.train.window_reader import LocalWindowSource, WindowReader
from ttt.training.hooks import Hook, StepRecord
from ttt.training.loop import BatchSource, train
from ttt.training.ranks import Communicator, SingleProcess
from ttt.training.state import TrainState

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """Where a training ended."""

    step: int
    finished: bool
    """False when a stop was requested."""
    skipped: int
    replaced: int
    turned_back: str | None
    """Why, where training went back to its best checkpoint in this process."""
    unguarded: bool
    """Whether guards were to choose the best checkpoint, and all of them held at no validation."""

    def notes(self) -> list[str]:
        """What a user should know of it, in sentences."""
        notes = []
        if self.skipped or self.replaced:
            skipped = f"{self.skipped} steps were skipped (not finite)"
            replaced = f"{self.replaced} damaged clips replaced"
            notes.append(f"{skipped} and {replaced}; metrics.jsonl names them")
        if self.turned_back is not None:
            notes.append(self.turned_back)
        if self.finished and self.unguarded:
            notes.append(
                "at no validation did all guards hold, so the best decoder is that of the lowest "
                "loss; metrics.jsonl has every validation's rows"
            )
        return notes


@dataclass(frozen=True)
class Position:
    """Where a training is."""

    step: int
    loss: float | None
    data_wait_share: float
    """Of the step time since the worker started."""
    discriminator: float | None = None
    """The discriminators' loss, where they learn."""

    def fields(self) -> dict[str, object]:
        """What a progress line shows beside the count of steps."""
        losses = {"loss": self.loss, "discriminator": self.discriminator}
        shown: dict[str, object] = {k: v for k, v in losses.items() if v is not None}
        return {**shown, "data_wait": f"{self.data_wait_share:.1%}"}


def train_in_process(plan: TrainPlan, stop: threading.Event, hooks: Sequence[Hook] = ()) -> Outcome:
    """The loop in this process, without Ray; `hooks` listen beside the trackers."""
    require_gpu_here(plan.config.cluster.gpus_per_worker)
    windows = plan.setup.windows
    shapes = [epoch.shape for epoch in plan.epochs]
    source = LocalWindowSource(WindowReader(plan.setup.cache, windows), windows, shapes)
    device = torch.device(plan.config.cluster.device)
    done = steps_done(plan.config.run)
    with Progress("training", plan.total_steps, "steps", done=done) as progress:
        shown = done

        def show(position: Position) -> None:
            nonlocal shown
            progress.advance(position.step - shown, **position.fields())
            shown = position.step

        hooks = [*hooks, PositionHook(show)]
        return run_loop(plan, source, SingleProcess(), device, hooks, stop.is_set)


def run_loop(
    plan: TrainPlan,
    source: BatchSource,
    group: Communicator,
    device: torch.device,
    hooks: Sequence[Hook],
    stop_requested: Callable[[], bool],
) -> Outcome:
    """The loop in a process that has its batches and its ranks to talk to."""
    config, setup = plan.config, plan.setup
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(config.cluster.cpus_per_worker)))
    setup.model.to(device)
    turns = _TurnBack()
    listeners = [*hooks, turns]
    if group.rank == 0:
        if config.adversarial is not None:
            listeners.append(CollapseWarning(config.adversarial, logger.warning))
        listeners += build_trackers(config.run, config.tracking, config.to_dict())
    state = train(
        loop_settings(plan),
        decoder_trainee(plan),
        source,
        group,
        listeners,
        stop_requested,
    )
    finished = state.epoch > len(plan.epochs)
    guarded, best = config.validation.best_by == "guarded", state.best_value
    unguarded = guarded and best is not None and not held(best)
    return Outcome(state.step, finished, state.skipped, state.replaced, turns.why, unguarded)


class _TurnBack(Hook):
    """Remembers why training went back to its best checkpoint."""

    why: str | None = None

    def on_turn_back(self, state: TrainState, why: str) -> None:
        self.why = why


class PositionHook(Hook):
    """Tells how far the run is and how much of its time went into waiting for data."""

    def __init__(self, show: Callable[[Position], None]) -> None:
        self._show = show
        self._waited = self._elapsed = 0.0

    def on_start(self, state: TrainState) -> None:
        self._show(Position(state.step, None, 0.0))

    def on_step(self, record: StepRecord) -> None:
        self._waited += record.data_wait_seconds
        self._elapsed += record.step_seconds
        finite = {name: loss for name, loss in record.terms.items() if math.isfinite(loss)}
        share = self._waited / self._elapsed
        self._show(Position(record.step, finite.get("total"), share, finite.get(LOSS)))


def steps_done(run: str) -> int:
    """Steps of the run's newest checkpoint; 0 without one."""
    steps = checkpoint.complete_steps(run)
    return steps[-1] if steps else 0
