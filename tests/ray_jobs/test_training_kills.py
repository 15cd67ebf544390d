"""Whatever is trained: SIGTERM and kill -9 end, after --resume where needed, in the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.ray_jobs.nano_training import (
    ON_RAY,
    ROOT,
    TOTAL_STEPS,
    WEIGHTS_AND_OPTIMIZER,
    World,
    command,
    final,
    steps_recorded,
    wait_until,
)
from tests.ray_jobs.worker_processes import slowed, worker_pids
from ttt import checkpoint

JOBS = ["decoder", "ttt"]


@pytest.fixture(params=JOBS)
def training(request: pytest.FixtureRequest) -> World:
    return request.getfixturevalue("world" if request.param == "decoder" else "ttt_world")


@pytest.fixture
def whole(request: pytest.FixtureRequest, training: World) -> Path:
    """An undisturbed run in one process."""
    is_ttt = training.job.endswith("train_ttt")
    return request.getfixturevalue("ttt_finished" if is_ttt else "finished")


@pytest.fixture
def whole_by_two(request: pytest.FixtureRequest, training: World) -> Path:
    """An undisturbed run of two workers."""
    is_ttt = training.job.endswith("train_ttt")
    return request.getfixturevalue("ttt_on_ray" if is_ttt else "whole_on_ray")


def test_sigterm_saves_and_resume_ends_with_the_same_bytes(
    training: World, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(command(training, run), cwd=ROOT, stdout=subprocess.PIPE)
    wait_until(lambda: 2 in steps_recorded(run), process)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    stopped = checkpoint.complete_steps(str(run))[-1]
    assert f"stopped at step {stopped}; continue with --resume" in printed.decode()
    assert stopped < TOTAL_STEPS
    assert training.main(run, "--resume") == 0
    assert steps_recorded(run) == list(range(1, TOTAL_STEPS + 1))
    for name in WEIGHTS_AND_OPTIMIZER:
        assert final(run)[name] == final(whole)[name]


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", ["worker", "monitor", "driver", "sigterm"])
def test_kills_on_ray_end_with_the_same_bytes(
    training: World, whole_by_two: Path, tmp_path: Path, victim: str
) -> None:
    """kill -9 of one worker, or of the actor between it and the driver, needs nobody; kill -9 of
    the driver and SIGTERM need --resume."""
    run = tmp_path / "run"
    process = subprocess.Popen(command(training, run, *ON_RAY), cwd=ROOT)
    wait_until(lambda: 2 in steps_recorded(run), process)
    if victim in ("worker", "monitor"):
        title = "ray::RayTrainWorker" if victim == "worker" else "ray::Monitor"
        os.kill(worker_pids(title, below=process.pid)[-1], signal.SIGKILL)
        killed, before = time.monotonic(), max(steps_recorded(run))
        wait_until(lambda: max(steps_recorded(run)) > before, process)
        print(f"the next step came {time.monotonic() - killed:.0f} s after the kill")
        assert process.wait(timeout=250) == 0
    else:
        # The other steps take less than the two seconds in which a SIGTERM reaches a worker.
        with slowed(worker_pids("ray::RayTrainWorker", below=process.pid)):
            process.send_signal(signal.SIGKILL if victim == "driver" else signal.SIGTERM)
            assert process.wait(timeout=100) == (-9 if victim == "driver" else 0)
        assert checkpoint.complete_steps(str(run))[-1] < TOTAL_STEPS
        subprocess.run(command(training, run, *ON_RAY, "--resume"), cwd=ROOT, check=True)
    assert steps_recorded(run) == list(range(1, TOTAL_STEPS + 1))
    assert final(run) == final(whole_by_two)
    best = "checkpoints/best.json"
    assert (run / best).read_bytes() == (whole_by_two / best).read_bytes()
