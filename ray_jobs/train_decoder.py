"""`python -m ray_jobs.train_decoder`: train the 48 kHz decoder on cached codes.

    python -m ray_jobs.train_decoder --config configs/train_default.yaml data.train=CACHE run=DIR
    python -m ray_jobs.train_decoder --config configs/train_default.yaml ... --resume

Two phases, segments that grow by stages, checkpoints that survive any kill. SIGTERM saves and
ends with exit code 0; --resume continues from the newest complete checkpoint, bit for bit. At the
end the best decoder lies in DIR/export.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ray_jobs.decoder.train_config import TrainConfig
from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Invocation, later, run

if TYPE_CHECKING:
    from ray_jobs.decoder.train.setup import TrainPlan


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(
        TrainConfig,
        plan=later("ray_jobs.decoder.train.setup:make_plan"),
        describe=later("ray_jobs.decoder.train.words:describe"),
        execute=execute,
        doc=__doc__ or "",
        argv=argv,
    )


def execute(plan: TrainPlan, invocation: Invocation) -> None:
    """Train to the end, or until SIGTERM; then export the best decoder."""
    from ray_jobs.decoder.train import run as train_run
    from ray_jobs.decoder.train import setup as train_setup

    config = plan.config
    with (
        run_folder.claim(config.run, config, resume=invocation.resume) as begin,
        _sigterm() as stop,
    ):
        train_setup.require_resumable(plan)
        begin()
        if config.cluster.num_workers == 0:
            outcome = train_run.train_in_process(plan, stop)
        else:
            from ray_jobs.decoder.train import worker as train_worker  # Ray is imported here.

            outcome = train_worker.train_on_ray(plan, invocation.address, stop)
        for note in outcome.notes():
            print(note)
        if not outcome.finished:
            print(f"stopped at step {outcome.step}; continue with --resume")
            return
        print(f"trained {outcome.step} steps; best decoder: {train_run.export_best(plan)}")


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets in place of ending the process."""
    stop = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda _signum, _frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(main())
