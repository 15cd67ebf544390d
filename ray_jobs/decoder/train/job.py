"""The job of a training: the loop to its end, once more without each fold, the best decoder."""

from __future__ import annotations

import threading

from ray_jobs.config.load import dump_yaml
from ray_jobs.decoder.train.exports import export_best
from ray_jobs.decoder.train.plan import TrainPlan
from ray_jobs.decoder.train_config import TrainConfig
from ray_jobs.runtime.cli import Invocation
from ray_jobs.training import run as training_run
from ray_jobs.training.run import Outcome, run_job, train_to_end
from ray_jobs.training.training_job import steps_done
from ttt import records, storage


def train(plan: TrainPlan, invocation: Invocation) -> None:
    """Train to the end, or until SIGTERM; then export the best decoder."""

    def finish(outcome: Outcome, stop: threading.Event) -> None:
        for fold in plan.folds:
            if not _train_fold(fold, invocation.address, stop):
                return
        print(f"trained {outcome.step} steps; best decoder: {export_best(plan)}")

    run_job(plan, invocation, finish, parts=plan.folds)


def foresee(plan: TrainPlan, _config: TrainConfig, resume: bool) -> None:
    """Raise the UserError that `train` is known to end with."""
    training_run.foresee(plan, resume, plan.folds)


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
    outcome = train_to_end(fold, address, stop)
    for note in outcome.notes:
        print(f"{name}: {note}")
    if not outcome.finished:
        print(f"stopped at step {outcome.step} of the {name}; continue with --resume")
    return outcome.finished
