"""The training loop: data, step, hooks on one screen.

It knows no backend and no model. What is trained comes in as one object, batches come from a
source, peers from a communicator, and whoever wants to know (trackers, Ray, a test) passes a hook.
The same function runs in a plain process and in every Ray Train worker; started again over the
same run folder it continues from the newest complete checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch

from ttt import checkpoint
from ttt.checkpoint import require_same_plan as refuse_another_plan
from ttt.errors import UserError
from ttt.training.config import CheckpointConfig
from ttt.training.device import copied_ahead, read_together
from ttt.training.hooks import Hook, StepRecord
from ttt.training.optim import move_weights
from ttt.training.ranks import Communicator, require_equal, sum_gradients
from ttt.training.schedules import EpochPlan
from ttt.training.state import RequireSamePlan, Training, TrainState
from ttt.training.trainee import MAIN, Trainee
from ttt.training.validate import validate

Batch = TypeVar("Batch")


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What the loop reads of a run's configuration."""

    run: str
    """Folder or URI of the run; checkpoints go below it."""
    plan: dict[str, Any]
    """What a checkpoint must agree with to be continued."""
    checkpoint: CheckpointConfig
    validate_every_steps: int | None = None
    """Besides each epoch's end."""
    ema_decay: float | None = None
    """Decay per step of an average of the weights that is validated instead of them, or None."""
    max_skipped_in_row: int = 10
    """Training stops after so many steps in a row with a non-finite loss or gradient."""
    require_same_plan: RequireSamePlan = refuse_another_plan
    """Compares a checkpoint's plan with this one."""


class BatchSource(Protocol[Batch]):
    """Where a rank's batches come from."""

    def step_batches(self, epoch: int, first_step: int) -> Iterator[list[Batch]]:
        """The rank's batches of each remaining step of an epoch, in the plan's order."""
        ...


class TrainingStopped(UserError):
    """Raised on every rank at once for a reason that a restart would only meet again."""


class Diverged(TrainingStopped):
    """Too many steps in a row were not finite."""


def train(
    settings: LoopSettings,
    trainee: Trainee[Batch],
    source: BatchSource[Batch],
    group: Communicator,
    hooks: Sequence[Hook] = (),
    stop_requested: Callable[[], bool] = lambda: False,
    save_requested: Callable[[], bool] = lambda: False,
) -> TrainState:
    """Train to the end of the trainee's epochs, or until a stop is requested; returns where it is.

    Before each step rank 0 decides by `stop_requested`, `save_requested` and the checkpoint clock;
    the others follow it. A step before which a checkpoint was requested is saved; whoever requests
    it takes that back in `on_checkpoint`. Raises TrainingStopped when too many steps in a row are
    not finite or a checkpoint cannot be written.
    """
    training = _start(settings, trainee, group)
    state, saver = training.state, _Saver(settings, group)
    for hook in hooks:
        hook.on_start(state)
    if trainee.validation is not None and state.step == 0:
        validate(training, trainee.validation, group, hooks, settings.run)
    for epoch in trainee.epochs[state.epoch - 1 :]:
        updates = training.enter(epoch.phase)
        steps = _Timed(source.step_batches(epoch.number, state.step_in_epoch))
        for batches in steps:
            save = saver.clock_is_due() or save_requested()
            agreed = _agree(group, trainee, batches, save, stop_requested())
            rates = trainee.rates(epoch, state.step)
            for update in updates:
                update.set_rates(rates)
            due = [update for update in updates if update.is_due(state.step)]
            names = [update.name for update in due]
            terms = trainee.accumulate(batches, agreed.denominators, step=state.step, due=names)
            parameters = [each for update in due for each in update.parameters]
            terms = sum_gradients(parameters, terms, group)
            norms = [update.clip() for update in due]
            numbers = read_together([*terms.values(), *norms])  # the step's one wait for a GPU
            losses = dict(zip(terms, numbers, strict=False))
            grad_norms = dict(zip(names, numbers[len(terms) :], strict=True))
            taken = all(map(math.isfinite, numbers))
            if taken:
                move_weights(due, state.step)
                if training.average is not None:
                    training.average.update(trainee.tensors()[MAIN])
            for update in updates:
                update.optimizer.zero_grad(set_to_none=True)
            state.count(epoch, taken=taken)
            state.replaced += len(agreed.replaced)
            record = StepRecord(
                step=state.step,
                epoch=epoch.number,
                phase=epoch.phase,
                terms=losses,
                learning_rates=rates,
                grad_norms=grad_norms,
                taken=taken,
                denominators=agreed.denominators,
                replaced=agreed.replaced,
                data_wait_seconds=steps.wait_seconds,
                step_seconds=steps.step_seconds(),
            )
            for hook in hooks:
                hook.on_step(record)
            if state.skipped_in_row >= settings.max_skipped_in_row:
                raise _diverged(state, trainee, batches, group)

            epoch_end = state.step_in_epoch == 0
            if epoch_end:
                _require_equal_weights(trainee, group)
            worth_saving = False
            if trainee.validation is not None and (
                epoch_end or _due(state.step, settings.validate_every_steps)
            ):
                worth_saving = validate(training, trainee.validation, group, hooks, settings.run)
                updates = training.updates  # others where it turned back
            if (
                epoch_end
                or worth_saving
                or agreed.stop
                or agreed.save
                or _due(state.step, settings.checkpoint.every_steps)
            ):
                folder = saver.save(training, epoch_end=epoch_end)
                for hook in hooks:
                    hook.on_checkpoint(state, folder)
            if agreed.stop:
                return state
        _require_epoch_end(state, epoch)
    return state


def _start(settings: LoopSettings, trainee: Trainee[Any], group: Communicator) -> Training:
    """From the newest complete checkpoint, which rank 0 looks up for all, or from step 0."""
    training = Training(trainee, settings.ema_decay)
    folder = None
    if group.rank == 0:
        checkpoint.remove_incomplete(settings.run)
        folder = checkpoint.newest_complete(settings.run)
    folder = group.from_first(folder)
    if folder is not None:
        training.restore(folder, settings.plan, settings.require_same_plan)
        best_step, best_value = training.state.best_step, training.state.best_value
        if group.rank == 0 and best_step is not None and best_value is not None:
            # A process may have died between its best checkpoint and the pointer to it.
            checkpoint.mark_best(settings.run, best_step, best_value)
    return training


@dataclass(frozen=True)
class _Agreed:
    """What all ranks know of a step before it."""

    denominators: dict[str, float]
    replaced: list[str]
    save: bool
    stop: bool


def _agree(
    group: Communicator,
    trainee: Trainee[Batch],
    batches: Sequence[Batch],
    save: bool,
    stop: bool,
) -> _Agreed:
    """The step's denominators and replaced items over all ranks, and rank 0's decisions to save
    and to stop; one small sum unless an item was damaged."""
    first = group.rank == 0
    mine, replaced = trainee.denominators(batches), trainee.replaced(batches)
    values = torch.tensor(
        [*mine.values(), len(replaced), first and save, first and stop],
        dtype=torch.float64,  # exact for whole numbers below 2**53
    )
    if group.world > 1:
        values = group.sum_(copied_ahead(values, trainee.device)).cpu()
    *totals, n_replaced, save_all, stop_all = values.tolist()
    if n_replaced:
        texts = group.all_texts("\n".join(replaced))
        replaced = [line for text in texts for line in text.splitlines()]
    denominators: dict[str, float] = {
        name: int(total) if isinstance(count, int) else total
        for (name, count), total in zip(mine.items(), totals, strict=True)
    }
    return _Agreed(denominators, replaced, bool(save_all), bool(stop_all))


class _Saver:
    """Writes checkpoints on rank 0 and tells every rank how it went."""

    def __init__(self, settings: LoopSettings, group: Communicator) -> None:
        self._settings = settings
        self._group = group
        self._last_save = time.monotonic()

    def clock_is_due(self) -> bool:
        minutes = self._settings.checkpoint.every_minutes
        return minutes is not None and time.monotonic() - self._last_save >= 60 * minutes

    def save(self, training: Training, *, epoch_end: bool) -> str:
        run, state, failure, folder = self._settings.run, training.state, None, None
        if self._group.rank == 0:
            try:
                snapshot = training.snapshot(self._settings.plan, epoch_end=epoch_end)
                folder = checkpoint.save(run, snapshot)
                if state.best_step == state.step and state.best_value is not None:
                    checkpoint.mark_best(run, state.step, state.best_value)
                kept = self._settings.checkpoint
                checkpoint.prune(
                    run, keep_last=kept.keep_last, keep_epoch_ends=kept.keep_epoch_ends
                )
            except UserError as error:
                failure = str(error)
        failure = self._group.from_first(failure)
        if failure is not None:
            raise TrainingStopped(failure)
        self._last_save = time.monotonic()
        return folder or ""


class _Timed(Generic[Batch]):
    """Iterates over a step's batches and measures how long the loop waited for them."""

    def __init__(self, batches: Iterator[list[Batch]]) -> None:
        self._batches = batches
        self.wait_seconds = 0.0
        self._asked = 0.0

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        self._asked = time.perf_counter()
        batch = next(self._batches)
        self.wait_seconds = time.perf_counter() - self._asked
        return batch

    def step_seconds(self) -> float:
        return time.perf_counter() - self._asked


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _diverged(
    state: TrainState, trainee: Trainee[Batch], batches: Sequence[Batch], group: Communicator
) -> Diverged:
    items = group.from_first(", ".join(trainee.item_ids(batches[0])[:3]))
    return Diverged(
        f"step {state.step}: the loss or gradient was not finite in {state.skipped_in_row} "
        f"steps in a row ({trainee.item_name} {items}, ...); the last good checkpoint is intact: "
        f"check these {trainee.item_name} and continue with --resume, or start a new run with a "
        f"lower {trainee.rate_key}"
    )


def _require_equal_weights(trainee: Trainee[Any], group: Communicator) -> None:
    named = (
        (f"{file}/{name}", tensor)
        for file, tensors in trainee.tensors().items()
        for name, tensor in tensors.items()
    )
    require_equal(group, named, "the weights")


def _require_epoch_end(state: TrainState, epoch: EpochPlan) -> None:
    if state.epoch != epoch.number + 1:
        raise RuntimeError(
            f"epoch {epoch.number} ended after {state.step_in_epoch} of {epoch.steps} steps; the "
            f"batch source does not follow the plan"
        )
