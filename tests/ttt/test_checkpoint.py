"""Checkpoints are complete or absent, and what is kept is what was promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ttt import checkpoint
from ttt.checkpoint import Snapshot
from ttt.errors import UserError


def snapshot(step: int, *, size: int = 8, epoch_end: bool = False) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    weights = {"a": torch.randn(size, size, generator=generator), "b": torch.tensor(step)}
    return Snapshot(
        step=step,
        tensors={"model": weights},
        optimizer={"optimizer": {"state": {0: {"m": weights["a"] * 2}}}, "rng": torch.arange(3)},
        state={"train": {"step": step, "best_value": 0.1 + step}},
        epoch_end=epoch_end,
    )


def equal(one: Snapshot, other: Snapshot) -> bool:
    return (
        one.step == other.step
        and one.state == other.state
        and one.epoch_end == other.epoch_end
        and all(torch.equal(t, other.tensors["model"][n]) for n, t in one.tensors["model"].items())
        and torch.equal(
            one.optimizer["optimizer"]["state"][0]["m"],
            other.optimizer["optimizer"]["state"][0]["m"],
        )
    )


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_what_is_saved_is_loaded(tmp_path: Path, scheme: str) -> None:
    run = f"{scheme}{tmp_path}"
    assert checkpoint.newest_complete(run) is None
    for step in (3, 20, 100_000_000):
        checkpoint.save(run, snapshot(step, epoch_end=step == 20))
    assert checkpoint.complete_steps(run) == [3, 20, 100_000_000]
    newest = checkpoint.newest_complete(run)
    assert newest is not None
    assert equal(checkpoint.load(newest), snapshot(100_000_000))
    # A plain reader of the world sees the same.
    if not scheme:
        torch.load(Path(newest) / "optimizer.pt", weights_only=True)


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_half_written_folders_do_not_count_and_are_removed(tmp_path: Path, scheme: str) -> None:
    from ttt import storage

    run = f"{scheme}{tmp_path}"
    folders = [checkpoint.save(run, snapshot(step)) for step in (1, 2, 3)]
    storage.delete(storage.join(folders[1], "COMPLETE"))
    storage.write_bytes(storage.join(folders[2], "optimizer.pt"), b"short")
    storage.write_bytes(storage.join(run, "checkpoints", ".step-00000009.ab.tmp", "x"), b"x")
    assert checkpoint.complete_steps(run) == [1]
    with pytest.raises(UserError, match="step-00000002: not a complete checkpoint"):
        checkpoint.load(folders[1])
    removed = checkpoint.remove_incomplete(run)
    assert sorted(removed) == [".step-00000009.ab.tmp", "step-00000002", "step-00000003"]
    assert storage.list_names(storage.join(run, "checkpoints")) == ["step-00000001"]
    checkpoint.save(run, snapshot(2))
    assert checkpoint.complete_steps(run) == [1, 2]


def test_retention_keeps_the_newest_the_best_and_epoch_ends(tmp_path: Path) -> None:
    run = str(tmp_path)
    for keep_epoch_ends, kept in ((True, [2, 3, 4, 8, 9]), (False, [3, 8, 9])):
        for step in range(1, 10):
            checkpoint.save(run, snapshot(step, epoch_end=step in (2, 4)))
            if step == 3:
                checkpoint.mark_best(run, 3, 0.5)
            checkpoint.prune(run, keep_last=2, keep_epoch_ends=keep_epoch_ends)
        assert checkpoint.complete_steps(run) == kept
    best = checkpoint.best(run)
    assert best is not None
    assert checkpoint.load(best).step == 3
    assert json.loads((tmp_path / "checkpoints/best.json").read_text())["value"] == 0.5


def test_no_best_before_the_first_validation(tmp_path: Path) -> None:
    checkpoint.save(str(tmp_path), snapshot(1))
    assert checkpoint.best(str(tmp_path)) is None


def test_another_plan_is_refused_by_key_and_values() -> None:
    stored = {"optim": {"peak_lr": 0.1, "betas": [0.9, 0.99]}, "seed": 1}
    checkpoint.require_same_plan("RUN", stored, json.loads(json.dumps(stored)))
    with pytest.raises(UserError, match=r"RUN: optim\.peak_lr was 0\.1 and is now 0\.2; a resumed"):
        checkpoint.require_same_plan("RUN", stored, {**stored, "optim": {"peak_lr": 0.2}})
    with pytest.raises(UserError, match=r"seed was 1 and is now None"):
        checkpoint.require_same_plan("RUN", stored, {"optim": stored["optim"]})


def run_saver(folder: Path, body: str) -> subprocess.Popen[bytes]:
    """A process that saves growing steps without end; `body` comes before its loop."""
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("saver", {str(__file__)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
{body}
step = 1000
while True:
    step += 1
    module.checkpoint.save({str(folder)!r}, module.snapshot(step, size=700))
    print(step, flush=True)
"""
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_kill_in_the_middle_of_saving_leaves_complete_checkpoints_only(tmp_path: Path) -> None:
    """kill -9 once a save of 6 MB was seen under way, at once and a few milliseconds later."""
    halves = 0
    for attempt in range(3):
        run = tmp_path / str(attempt)
        saver = run_saver(run, "")
        assert saver.stdout is not None
        saver.stdout.readline()
        while all(path.name.startswith("step-") for path in (run / "checkpoints").iterdir()):
            assert saver.poll() is None
        time.sleep(0.002 * attempt)
        saver.kill()
        printed = [int(line) for line in saver.stdout.read().split()]
        saver.wait()
        steps = checkpoint.complete_steps(str(run))
        assert steps[: 1 + len(printed)] == [1001, *printed]
        for step in steps[-2:]:
            folder = f"{run}/checkpoints/step-{step:08d}"
            assert equal(checkpoint.load(folder), snapshot(step, size=700))
        halves += len(checkpoint.remove_incomplete(str(run)))
        assert all(name.name.startswith("step-") for name in (run / "checkpoints").iterdir())
    assert halves >= 1, "no kill hit a save; the test proves nothing"


def test_full_disk_is_one_sentence_and_the_old_checkpoints_stay(tmp_path: Path) -> None:
    """The limit on a file's size stands for a disk that fills up while the file is written."""
    checkpoint.save(str(tmp_path), snapshot(7))
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    saver = run_saver(tmp_path, limit)
    _, errors = saver.communicate(timeout=60)
    assert saver.returncode == 1
    last = errors.decode().strip().splitlines()[-1]
    assert "step-00001001: the checkpoint could not be written (File too large)" in last
    assert "the older ones are intact: free space, then continue with --resume" in last
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000007"]
    assert equal(checkpoint.load(f"{tmp_path}/checkpoints/step-00000007"), snapshot(7))
