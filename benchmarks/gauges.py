"""What the gauges cost: CPU time of noting a step, and of setting the gauges of a training.

    python -m benchmarks.gauges

A training notes where it is each step, and sets its gauges every two seconds, however many steps
there were.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from ray_jobs.config.load import load_config
from ray_jobs.decoder.train.plan import make_plan
from ray_jobs.decoder.train_config import TrainConfig
from ray_jobs.runtime.connection import ray_session
from ray_jobs.runtime.gauges import Gauges, progress_values
from ray_jobs.runtime.progress import Progress
from ray_jobs.training.position import Position, PositionHook
from tests.ray_jobs.nano_training import write_world
from ttt.training.hooks import StepRecord
from ttt.training.state import TrainState

TIMES = 20_000


def main() -> None:
    """Print microseconds of both."""
    with TemporaryDirectory() as folder, ray_session("local", 1):
        world = write_world(Path(folder))
        job = make_plan(load_config(TrainConfig, world.config, [f"run={folder}/run"]))
        positions: list[Position] = []
        hook = PositionHook(positions.append, job)
        hook.on_start(TrainState(best_value=1.0))
        record = StepRecord(
            step=1,
            epoch=1,
            phase=1,
            terms={"total": 1.0, "linear": 0.4, "log": 0.3, "mel": 0.2, "l1": 0.1},
            learning_rates={"head": 1e-4, "decoder": 1e-4},
            grad_norms={"optimizer": 1.0},
            taken=True,
            denominators={"valid_samples": 1},
            replaced=[],
            data_wait_seconds=0.01,
            step_seconds=1.0,
        )
        progress, gauges = Progress("training", 10, "steps"), Gauges("train_decoder", folder)
        print(f"noting a step: {microseconds(lambda: hook.on_step(record)):.1f} us")

        def export() -> None:
            gauges.show(positions[-1].measured)
            gauges.show(progress_values(progress.reading()))
            gauges.set()

        print(f"setting the gauges of a training: {microseconds(export):.1f} us")


def microseconds(call: Callable[[], None]) -> float:
    """CPU time of a call in the calling thread."""
    began = time.thread_time()
    for _ in range(TIMES):
        call()
    return (time.thread_time() - began) / TIMES * 1e6


if __name__ == "__main__":
    main()
