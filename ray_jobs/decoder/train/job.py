"""The job of a training: the loop to its end, once more without each fold, the best decoder."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ray_jobs.config.load import dump_yaml
from ray_jobs.decoder.train.exports import export_best
from ray_jobs.decoder.train.run import Outcome, steps_done, train_in_process
from ray_jobs.decoder.train.setup import TrainPlan, require_resumable
from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Invocation
from ttt import records, storage


def train(plan: TrainPlan, invocation: Invocation) -> None:
    """Train to the end, or until SIGTERM; then export the best decoder."""
    config = plan.config
    with (
        run_folder.claim(config.run, config, resume=invocation.resume) as begin,
        _sigterm() as stop,
    ):
        for each in (plan, *plan.folds):
            require_resumable(each)
        begin()
        outcome = _train(plan, invocation.address, stop)
        for note in outcome.notes():
            print(note)
        if not outcome.finished:
            print(f"stopped at step {outcome.step}; continue with --resume")
            return
        for fold in plan.folds:
            if not _train_fold(fold, invocation.address, stop):
                return
        print(f"trained {outcome.step} steps; best decoder: {export_best(plan)}")


def _train(plan: TrainPlan, address: str | None, stop: threading.Event) -> Outcome:
    if plan.config.cluster.num_workers == 0:
        return train_in_process(plan, stop)
    from ray_jobs.decoder.train.worker import train_on_ray  # Ray is imported here.

    return train_on_ray(plan, address, stop)


def _train_fold(fold: TrainPlan, address: str | None, stop: threading.Event) -> bool:
    """Whether the training without a fold is at its end, now or before."""
    run, name = fold.config.run, f"training without fold {fold.config.data.without_fold}"
    if steps_done(run) == fold.total_steps:
        return True
    if stop.is_set():
        print(f"stopped before the {name}; continue with --resume")
        return False
    print(name, flush=True)
    storage.write_bytes(storage.join(run, "config.yaml"), dump_yaml(fold.config).encode())
    records.write_json(storage.join(run, "provenance.json"), records.provenance(fold.config))
    outcome = _train(fold, address, stop)
    for note in outcome.notes():
        print(f"{name}: {note}")
    if not outcome.finished:
        print(f"stopped at step {outcome.step} of the {name}; continue with --resume")
    return outcome.finished


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets in place of ending the process."""
    stop = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda _signum, _frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, previous)
