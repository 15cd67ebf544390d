"""The training loop: data, step, hooks on one screen.

It knows no backend. Batches come from a source, peers from a communicator, and whoever wants to
know (trackers, Ray, a test) passes a hook. The same function runs in a plain process and in every
Ray Train worker; started again over the same run folder it continues from the newest complete
checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ttt import checkpoint
from ttt.checkpoint import CheckpointConfig
from ttt.errors import UserError
from ttt.snac.hooks import Hook, StepRecord
from ttt.snac.model import Decoder48k
from ttt.snac.train.curriculum import Epoch
from ttt.snac.train.losses import LossConfig
from ttt.snac.train.optim import OptimConfig, learning_rates, rate_factor
from ttt.snac.train.step import Precision, accumulate_gradients, reduce_gradients
from ttt.snac.train.validation import REFERENCE_ROWS, ValidationSet, validate
from ttt.snac.train.window_reader import MicroBatch
from ttt.snac.train_state import Training, TrainState
from ttt.training.optim import clip_gradients, set_learning_rates, trained_parameters
from ttt.training.ranks import Communicator, require_equal


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What the loop reads of a run's configuration."""

    run: str
    """Folder or URI of the run; checkpoints go below it."""
    plan: dict[str, Any]
    """What a checkpoint must agree with to be continued."""
    seed: int
    precision: Precision
    optim: OptimConfig
    loss: LossConfig
    checkpoint: CheckpointConfig
    validate_every_steps: int | None
    """Besides each epoch's end."""
    n_examples: int = 0
    """Validation windows handed to the hooks to look at and listen to."""


class BatchSource(Protocol):
    """Where a rank's micro-batches come from."""

    def step_batches(self, epoch: int, first_step: int) -> Iterator[list[MicroBatch]]:
        """The rank's micro-batches of each remaining step of an epoch, in the plan's order."""
        ...


class TrainingStopped(UserError):
    """Raised on every rank at once for a reason that a restart would only meet again."""


class Diverged(TrainingStopped):
    """Too many steps in a row were not finite."""


def train(
    settings: LoopSettings,
    model: Decoder48k,
    epochs: Sequence[Epoch],
    source: BatchSource,
    validation: ValidationSet | None,
    group: Communicator,
    hooks: Sequence[Hook] = (),
    stop_requested: Callable[[], bool] = lambda: False,
) -> TrainState:
    """Train to the end of `epochs`, or until a stop is requested; returns where it stands.

    `stop_requested` and the checkpoint clock count on rank 0 only; the others follow it. Raises
    TrainingStopped when too many steps in a row are not finite or a checkpoint cannot be written.
    """
    training = _start(settings, model, group)
    state, saver = training.state, _Saver(settings, group)
    for hook in hooks:
        hook.on_start(state)
    if validation is not None and state.step == 0:
        _validate(training, settings, validation, group, hooks)
    for epoch in epochs[state.epoch - 1 :]:
        optimizer = training.enter(epoch.phase)
        parameters = trained_parameters(optimizer)
        batches = _Timed(source.step_batches(epoch.number, state.step_in_epoch))
        for micro_batches in batches:
            valid_samples, replaced, save_by_clock, stop = _agree(
                group, model, micro_batches, saver.clock_is_due(), stop_requested()
            )
            factor = rate_factor(settings.optim, state.step)
            phase_step = state.step - epoch.phase_first_step
            rates = learning_rates(
                settings.optim, epoch.phase, phase_step, epoch.phase_steps, factor=factor
            )
            set_learning_rates(optimizer, rates)
            terms = accumulate_gradients(
                model,
                micro_batches,
                settings.loss,
                valid_samples=valid_samples,
                step=state.step,
                seed=settings.seed,
                precision=settings.precision,
            )
            terms = reduce_gradients(parameters, terms, group)
            grad_norm = float(clip_gradients(parameters, settings.optim.clip_norm))
            taken = math.isfinite(grad_norm) and math.isfinite(float(terms["total"]))
            if taken:
                optimizer.step()
                if training.average is not None:
                    training.average.update(model)
            optimizer.zero_grad(set_to_none=True)
            state.count(epoch, taken=taken)
            state.replaced += len(replaced)
            record = StepRecord(
                step=state.step,
                epoch=epoch.number,
                phase=epoch.phase,
                terms={name: float(value) for name, value in terms.items()},
                learning_rates=rates,
                grad_norm=grad_norm,
                taken=taken,
                valid_samples=valid_samples,
                replaced=replaced,
                data_wait_seconds=batches.wait_seconds,
                step_seconds=batches.step_seconds(),
            )
            for hook in hooks:
                hook.on_step(record)
            _stop_when_lost(state, settings.optim, micro_batches, group)

            epoch_end = state.step_in_epoch == 0
            if epoch_end:
                require_equal(group, model.state_dict().items(), "the weights")
            improved = False
            if validation is not None and (
                epoch_end or _due(state.step, settings.validate_every_steps)
            ):
                improved = _validate(training, settings, validation, group, hooks)
            if (
                epoch_end
                or improved
                or stop
                or save_by_clock
                or _due(state.step, settings.checkpoint.every_steps)
            ):
                folder = saver.save(training, epoch_end=epoch_end)
                for hook in hooks:
                    hook.on_checkpoint(state, folder)
            if stop:
                return state
        _require_epoch_end(state, epoch)
    return state


def _start(settings: LoopSettings, model: Decoder48k, group: Communicator) -> Training:
    """From the newest complete checkpoint, which rank 0 looks up for all, or from step 0."""
    training = Training(model, settings.optim)
    folder = None
    if group.rank == 0:
        checkpoint.remove_incomplete(settings.run)
        folder = checkpoint.newest_complete(settings.run)
    folder = group.from_first(folder)
    if folder is not None:
        training.restore(folder, settings.plan)
        best_step, best_value = training.state.best_step, training.state.best_value
        if group.rank == 0 and best_step is not None and best_value is not None:
            # A process may have died between its best checkpoint and the pointer to it.
            checkpoint.mark_best(settings.run, best_step, best_value)
    return training


def _agree(
    group: Communicator,
    model: Decoder48k,
    micro_batches: Sequence[MicroBatch],
    save_by_clock: bool,
    stop: bool,
) -> tuple[int, list[str], bool, bool]:
    """The step's valid samples and replaced clips over all ranks, and rank 0's decisions to save
    and to stop; one small sum unless a clip was damaged."""
    first = group.rank == 0
    valid = sum(int(batch.valid_samples.sum()) for batch in micro_batches)
    replaced = [
        f"{replacement.wanted}: {replacement.reason}; used {replacement.used}"
        for batch in micro_batches
        for replacement in batch.replaced
    ]
    values = torch.tensor(
        [valid, len(replaced), first and save_by_clock, first and stop], dtype=torch.int64
    )
    valid, n_replaced, save, stop_all = group.sum_(
        values.to(next(model.parameters()).device)
    ).tolist()
    if n_replaced:
        texts = group.all_texts("\n".join(replaced))
        replaced = [line for text in texts for line in text.splitlines()]
    return valid, replaced, bool(save), bool(stop_all)


def _validate(
    training: Training,
    settings: LoopSettings,
    validation: ValidationSet,
    group: Communicator,
    hooks: Sequence[Hook],
) -> bool:
    """Validate, note the best value, tell the hooks; whether this is the best trained model."""
    state = training.state
    with training.averaged_weights() as model:
        result = validate(
            model,
            validation,
            settings.loss,
            group,
            precision=settings.precision,
            with_references=state.step == 0,
            n_examples=settings.n_examples,
        )
    if state.step == 0:
        state.references = {k: v for k, v in result.rows.items() if k in REFERENCE_ROWS}
    result.rows.update(state.references)
    lowest = math.inf if state.best_value is None else state.best_value
    improved = state.step > 0 and result.loss < lowest  # a loss that is no number never is
    if improved:
        state.best_value, state.best_step = result.loss, state.step
    for hook in hooks:
        hook.on_validation(state, result)
    return improved


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
                checkpoint.prune(run, self._settings.checkpoint)
            except UserError as error:
                failure = str(error)
        failure = self._group.from_first(failure)
        if failure is not None:
            raise TrainingStopped(failure)
        self._last_save = time.monotonic()
        return folder or ""


class _Timed:
    """Iterates over a step's batches and measures how long the loop waited for them."""

    def __init__(self, batches: Iterator[list[MicroBatch]]) -> None:
        self._batches = batches
        self.wait_seconds = 0.0
        self._asked = 0.0

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        return self

    def __next__(self) -> list[MicroBatch]:
        self._asked = time.perf_counter()
        batch = next(self._batches)
        self.wait_seconds = time.perf_counter() - self._asked
        return batch

    def step_seconds(self) -> float:
        return time.perf_counter() - self._asked


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _stop_when_lost(
    state: TrainState, config: OptimConfig, micro_batches: Sequence[MicroBatch], group: Communicator
) -> None:
    if state.skipped_in_row >= config.max_skipped_in_row:
        clips = group.from_first(", ".join(micro_batches[0].clip_ids[:3]))
        raise Diverged(
            f"step {state.step}: the loss or gradient was not finite in {state.skipped_in_row} "
            f"steps in a row (clips {clips}, ...); the last good checkpoint is intact: check these "
            f"clips and continue with --resume, or start a new run with a lower optim.peak_lr"
        )


def _require_epoch_end(state: TrainState, epoch: Epoch) -> None:
    if state.epoch != epoch.number + 1:
        raise RuntimeError(
            f"epoch {epoch.number} ended after {state.step_in_epoch} of {epoch.steps} steps; the "
            f"batch source does not follow the plan"
        )
