"""Running the training loop in this process, and what every way of running it shares.

`ray_jobs.training.worker` runs the same loop in Ray Train's workers. They differ in where the
batches come from and in whom the ranks talk to.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Invocation
from ray_jobs.runtime.connection import require_gpu_here
from ray_jobs.runtime.progress import Progress
from ray_jobs.training.position import Position, PositionHook
from ray_jobs.training.trackers import build_trackers
from ray_jobs.training.training_job import TrainingJob, require_resumable, steps_done
from ttt.config import Config
from ttt.training.hooks import Hook
from ttt.training.loop import BatchSource, train
from ttt.training.ranks import Communicator, SingleProcess
from ttt.training.state import TrainState


@dataclass(frozen=True)
class Outcome:
    """Where a training ended."""

    step: int
    finished: bool
    """False when a stop was requested."""
    notes: tuple[str, ...]
    """What a user should know of it, in sentences."""


def run_job(
    job: TrainingJob[Any],
    invocation: Invocation,
    finish: Callable[[Outcome, threading.Event], None],
    *,
    parts: Sequence[TrainingJob[Any]] = (),
) -> None:
    """Hold the run folder and train to the end, or until SIGTERM; at the end call `finish`.

    It is given the event that SIGTERM sets. `parts` are trainings in folders of their own that it
    goes on with: the run is refused where one of them could not be resumed.
    """
    config = job.config
    assert isinstance(config, Config)  # A protocol cannot say so.
    with (
        run_folder.claim(config.run, config, resume=invocation.resume) as begin,
        sigterm() as stop,
    ):
        for each in (job, *parts):
            require_resumable(each)
        begin()
        outcome = train_to_end(job, invocation.address, stop)
        for note in outcome.notes:
            print(note)
        if outcome.finished:
            finish(outcome, stop)
        else:
            print(f"stopped at step {outcome.step}; continue with --resume")


def foresee(job: TrainingJob[Any], resume: bool, parts: Sequence[TrainingJob[Any]] = ()) -> None:
    """Raise the UserError by which `run_job` is known to refuse the run."""
    config = job.config
    assert isinstance(config, Config)  # A protocol cannot say so.
    run_folder.foresee(job, config, resume)
    for each in (job, *parts):
        require_resumable(each)


def train_to_end(job: TrainingJob[Any], address: str | None, stop: threading.Event) -> Outcome:
    """Train to the end or until `stop` is set: in this process with no workers, else on Ray."""
    if job.config.cluster.num_workers == 0:
        return train_in_process(job, stop)
    from ray_jobs.training.worker import train_on_ray  # Ray is imported here.

    return train_on_ray(job, address, stop)


@contextmanager
def sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets in place of ending the process."""
    stop = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda _signum, _frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, previous)


def train_in_process(
    job: TrainingJob[Any], stop: threading.Event, hooks: Sequence[Hook] = ()
) -> Outcome:
    """The loop in this process, without Ray; `hooks` listen beside the trackers."""
    require_gpu_here(job.config.cluster.gpus_per_worker)
    device = torch.device(job.config.cluster.device)
    done = steps_done(job.config.run)
    with Progress("training", job.total_steps, "steps", done=done) as progress:
        shown = done

        def show(position: Position) -> None:
            nonlocal shown
            progress.advance(position.step - shown, **position.fields())
            shown = position.step

        hooks = [*hooks, PositionHook(show, job)]
        return run_loop(job, job.local_source(), SingleProcess(), device, hooks, stop.is_set)


def run_loop(
    job: TrainingJob[Any],
    source: BatchSource[Any],
    group: Communicator,
    device: torch.device,
    hooks: Sequence[Hook],
    stop_requested: Callable[[], bool],
    save_requested: Callable[[], bool] = lambda: False,
) -> Outcome:
    """The loop in a process that has its batches and its ranks to talk to."""
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(job.config.cluster.cpus_per_worker)))
    trainee, turns = job.trainee(device), _TurnBack()
    listeners = [*hooks, turns]
    if group.rank == 0:
        listeners += [*job.hooks(), *build_trackers(job)]
    state = train(
        job.loop_settings(), trainee, source, group, listeners, stop_requested, save_requested
    )
    finished = state.epoch > len(job.epochs)
    return Outcome(state.step, finished, tuple(_notes(job, state, turns, finished=finished)))


def _notes(
    job: TrainingJob[Any], state: TrainState, turns: _TurnBack, *, finished: bool
) -> list[str]:
    notes = []
    if state.skipped or state.replaced:
        skipped = f"{state.skipped} steps were skipped (not finite)"
        replaced = f"{state.replaced} damaged {job.item_name} replaced"
        notes.append(f"{skipped} and {replaced}; metrics.jsonl names them")
    if turns.why is not None:
        notes.append(turns.why)
    return [*notes, *job.notes(state, finished=finished)]


class _TurnBack(Hook):
    """Remembers why training went back to its best checkpoint."""

    why: str | None = None

    def on_turn_back(self, state: TrainState, why: str) -> None:
        self.why = why
