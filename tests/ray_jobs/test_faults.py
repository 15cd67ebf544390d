"""What can go wrong around a job: the disk, the clock, the object store, a slow node."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ray_jobs import cache_codes, train_decoder
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
from tests.ray_jobs.worker_processes import worker_pids
from ttt import checkpoint


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of its own at `folder`; yields what makes it larger. Skips where none can be
    mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here (it takes root)")

    def enlarge(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)

    try:
        yield enlarge
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_training_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    world: World, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_step = sum(len(content) for content in final(finished).values())
    with small_disk(tmp_path / "disk", f"{int(3.5 * one_step)}") as enlarge:
        run = tmp_path / "disk" / "run"
        assert train_decoder.main(world.overrides(run)) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("error: ")
        assert "could not be written (No space left on device)" in said
        steps = checkpoint.complete_steps(str(run))
        assert steps == list(range(1, len(steps) + 1))
        assert 3 <= len(steps) < TOTAL_STEPS
        for step in steps:
            checkpoint.load(f"{run}/checkpoints/step-{step:08d}")
        enlarge(f"{20 * one_step}")
        assert train_decoder.main([*world.overrides(run), "--resume"]) == 0
        assert steps_recorded(run) == list(range(1, TOTAL_STEPS + 1))
        for name in WEIGHTS_AND_OPTIMIZER:
            assert final(run)[name] == final(finished)[name]


@pytest.mark.usefixtures("ray_local")
def test_caching_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    small_codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        noise = np.random.default_rng(number).normal(0, 0.1, 96_000)
        path = tmp_path / "audio" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, noise, 48_000, subtype="PCM_16")
    words = [
        *(f"--config={ROOT / 'configs/cache_folder.yaml'}", f"input.audio={tmp_path / 'audio'}"),
        *(f"codec.name={small_codec}", "cluster.num_workers=1", "clips_per_shard=1"),
    ]
    assert cache_codes.main([*words, f"output={tmp_path / 'whole'}"]) == 0
    with small_disk(tmp_path / "disk", "500k") as enlarge:
        cache = tmp_path / "disk" / "cache"
        capsys.readouterr()
        assert cache_codes.main([*words, f"output={cache}"]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "shard-00002.parquet: could not be written" in error
        assert "No space left on device" in error
        assert (cache / "shards" / "shard-00001.jsonl").exists()
        enlarge("10m")
        assert cache_codes.main([*words, f"output={cache}"]) == 0
        for path in (tmp_path / "whole" / "shards").iterdir():
            assert (cache / "shards" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("jump_seconds", [-86_400, pytest.param(86_400, marks=pytest.mark.faults)])
def test_a_clock_that_jumps_changes_nothing(
    world: World, finished: Path, tmp_path: Path, jump_seconds: int
) -> None:
    """The wall clock of a whole training without Ray jumps by a day in the middle."""
    if shutil.which("gcc") is None:
        pytest.skip("no compiler to build the clock that jumps")
    library, jump = tmp_path / "clock_jump.so", tmp_path / "jump"
    source = ROOT / "tests" / "ray_jobs" / "clock_jump.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "CLOCK_JUMP": str(jump)}

    run = tmp_path / "run"
    words = command(world, run, "checkpoint.every_minutes=1e-9", "checkpoint.every_steps=null")
    process = subprocess.Popen(words, cwd=ROOT, env=environment)
    wait_until(lambda: 2 in steps_recorded(run), process)
    jump.write_text(str(jump_seconds))
    now = [sys.executable, "-c", "import time; print(time.time())"]
    seen = subprocess.run(now, env=environment, capture_output=True, text=True, check=True).stdout
    assert abs(float(seen) - time.time() - jump_seconds) < 3600
    assert process.wait(timeout=200) == 0
    assert steps_recorded(run) == list(range(1, TOTAL_STEPS + 1))
    for name in WEIGHTS_AND_OPTIMIZER:
        assert final(run)[name] == final(finished)[name]
    # By the clock alone a checkpoint is due after every step: it went on being due.
    assert checkpoint.complete_steps(str(run)) == list(range(1, TOTAL_STEPS + 1))


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_node_that_stands_still_for_a_while_is_waited_for(
    world: World, whole_on_ray: Path, tmp_path: Path
) -> None:
    """One of two workers is stopped for ten seconds: nothing is skipped or taken for dead."""
    run = tmp_path / "run"
    process = subprocess.Popen(command(world, run, *ON_RAY), cwd=ROOT)
    wait_until(lambda: 2 in steps_recorded(run), process)
    slow = worker_pids("ray::RayTrainWorker", below=process.pid)[-1]
    os.kill(slow, signal.SIGSTOP)
    before = steps_recorded(run)
    time.sleep(10)
    assert len(steps_recorded(run)) <= len(before) + 1, "the others cannot go ahead"
    os.kill(slow, signal.SIGCONT)
    assert process.wait(timeout=250) == 0
    assert final(run) == final(whole_on_ray)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_full_object_store_slows_training_and_changes_nothing(
    world: World, tmp_path: Path
) -> None:
    """All of a small object store is held by somebody else while micro-batches pass through."""
    script = """
        import sys

        import numpy as np

        from ray_jobs import train_decoder
        import ray

        ray.init("local", num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False)
        held = [ray.get(ray.put(np.zeros(2**20, np.uint8))) for _ in range(90)]
        sys.exit(train_decoder.main(sys.argv[1:]))
    """
    # Micro-batches of 400 kB: smaller than 100 kB they would not pass through the store.
    stage = "{first_epoch: 1, last_epoch: 3, segment_seconds: 0.5, clips_per_step: 8}"
    more = [f"curriculum.stages=[{stage}]", "curriculum.micro_batches_per_step=1"]
    quiet, run = tmp_path / "quiet", tmp_path / "run"
    assert train_decoder.main([*world.overrides(quiet), *more]) == 0
    workers = ["cluster.num_workers=1", "cluster.cpus_per_worker=0.5"]
    words = [sys.executable, "-c", textwrap.dedent(script), *world.overrides(run), *more, *workers]
    subprocess.run(words, cwd=ROOT, check=True)
    newest = [str(checkpoint.newest_complete(str(folder))) for folder in (quiet, run)]
    for name in WEIGHTS_AND_OPTIMIZER:
        one, other = ((Path(folder) / name).read_bytes() for folder in newest)
        assert one == other
