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

from ray_jobs import run_folder, train_setup
from ray_jobs.cli import Invocation, run
from ray_jobs.train_config import TrainConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(
        TrainConfig,
        execute=execute,
        describe=train_setup.describe,
        doc=__doc__ or "",
        argv=argv,
    )


def execute(config: TrainConfig, invocation: Invocation) -> None:
    """Train to the end, or until SIGTERM; then export the best decoder."""
    from ray_jobs import train_worker  # --print-config and --dry-run need no Ray

    config = train_setup.as_begun(train_setup.with_absolute_paths(config))
    with run_folder.claim(config.run, config, resume=invocation.resume), _sigterm() as stop:
        if config.cluster.num_workers == 0:
            outcome = train_worker.train_in_process(config, stop)
        else:
            outcome = train_worker.train_on_ray(config, invocation.address, stop)
        if outcome.skipped or outcome.replaced:
            print(
                f"{outcome.skipped} steps were skipped (not finite) and {outcome.replaced} damaged "
                f"clips replaced; metrics.jsonl names them"
            )
        if not outcome.finished:
            print(f"stopped at step {outcome.step}; continue with --resume")
            return
        print(f"trained {outcome.step} steps; best decoder: {train_worker.export_best(config)}")


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
