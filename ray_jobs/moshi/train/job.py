"""The job of a training in Moshi: the loop to its end, its report, the best of what it trained."""

from __future__ import annotations

import threading

from ray_jobs.moshi.train.config import TrainTTTConfig
from ray_jobs.moshi.train.exports import export_best
from ray_jobs.moshi.train.plan import TTTPlan
from ray_jobs.moshi.train.report import write_report
from ray_jobs.runtime.cli import Invocation
from ray_jobs.training import run as training_run
from ray_jobs.training.run import Outcome, run_job


def train(plan: TTTPlan, invocation: Invocation) -> None:
    """Train to the end, or until SIGTERM; then report, and export the best."""

    def finish(outcome: Outcome, _stop: threading.Event) -> None:
        write_report(plan.config.run)
        print(f"trained {outcome.step} steps; best: {export_best(plan)}")

    run_job(plan, invocation, finish)


def foresee(plan: TTTPlan, _config: TrainTTTConfig, resume: bool) -> None:
    """Raise the UserError that `train` is known to end with."""
    training_run.foresee(plan, resume)
