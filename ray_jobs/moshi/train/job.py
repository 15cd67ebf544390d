"""The job of a training in Moshi: the loop to its end, its report, the best of what it trained."""

from __future__ import annotations

from ray_jobs.moshi.train.exports import export_best
from ray_jobs.moshi.train.plan import TTTPlan
from ray_jobs.moshi.train.report import write_report
from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Invocation
from ray_jobs.training.run import sigterm, train_to_end
from ray_jobs.training.training_job import require_resumable


def train(plan: TTTPlan, invocation: Invocation) -> None:
    """Train to the end, or until SIGTERM; then report, and export the best."""
    config = plan.config
    with (
        run_folder.claim(config.run, config, resume=invocation.resume) as begin,
        sigterm() as stop,
    ):
        require_resumable(plan)
        begin()
        outcome = train_to_end(plan, invocation.address, stop)
        for note in outcome.notes:
            print(note)
        if not outcome.finished:
            print(f"stopped at step {outcome.step}; continue with --resume")
            return
        write_report(config.run)
        print(f"trained {outcome.step} steps; best: {export_best(plan)}")
