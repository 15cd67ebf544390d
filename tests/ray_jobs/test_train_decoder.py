"""The training command: plan, refusals, Ray, resume, signals, kills."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from ray_jobs import decode_codes, train_decoder
from tests.nano_cache import write_nano_codec
from tests.object_store import ObjectStore
from tests.ray_jobs.nano_training import (
    ON_RAY,
    ROOT,
    TOTAL_STEPS,
    WEIGHTS_AND_OPTIMIZER,
    World,
    final,
    metrics,
    steps_recorded,
    wait_until,
)
from tests.ray_jobs.worker_processes import worker_pids
from ttt import checkpoint, retries, storage
from ttt.snac.export import read_config
from ttt.snac.metrics import METRICS
from ttt.snac.model import Decoder48k


def test_a_run_leaves_checkpoints_metrics_and_an_export(world: World, finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    expected = {"checkpoints", "config.yaml", "export", "metrics.jsonl", "provenance.json"}
    assert names == expected | {"tensorboard", ".lock"}
    assert steps_recorded(finished) == list(range(1, TOTAL_STEPS + 1))
    validations = [line for line in metrics(finished) if line["kind"] == "validation"]
    assert [line["step"] for line in validations] == [0, 2, 4, 8]
    for line in validations:
        assert set(line["rows"]) == {"ours_48k", "resampled_decode24", "resampled_true24"}
        assert set(line["rows"]["ours_48k"]) == set(METRICS)
    references = [
        {k: v for k, v in line["rows"].items() if k != "ours_48k"} for line in validations
    ]
    assert references == references[:1] * 4
    best = json.loads((finished / "checkpoints/best.json").read_text())
    losses = {line["step"]: line["loss"] for line in validations if line["step"]}
    assert best == {"step": min(losses, key=losses.__getitem__), "value": min(losses.values())}
    exported = Decoder48k.from_pretrained(finished / "export").state_dict()
    weights = checkpoint.load(str(checkpoint.best(str(finished)))).tensors["model"]
    assert all(torch.equal(weights[name], tensor) for name, tensor in exported.items())
    tricks = read_config(finished / "export").tricks
    assert tricks is not None
    assert tricks.rows > 0


def test_tensorboard_holds_scalars_audio_and_spectrograms(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/total", "learning_rate/head", "learning_rate/body", "lsd_hf/ours_48k"} <= set(
        tags["scalars"]
    )
    assert [event.step for event in events.Scalars("train/total")] == list(range(1, 9))
    assert set(tags["audio"]) == {
        f"example 0/{name}" for name in ("true", "ours", "resampled decode24")
    }
    assert [event.step for event in events.Images("example 0")] == [0, 2, 4, 8]


def test_dry_run_prints_the_plan_and_writes_nothing(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train_decoder.main([*world.overrides(run), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "11 clips, 8 train" in printed
    assert "bandwidth: unknown; how many hours reach 16 kHz was not measured" in printed
    assert "8 steps in 3 epochs, 1 worker(s) with 2 micro-batches of each step" in printed
    rows = [line.split() for line in printed.splitlines() if line.strip()[:1].isdigit()][1:]
    # epoch, phase, segment, core, clips per step, steps, left over, first and last rate
    assert [row[:2] + row[5:8] + [row[8], row[10]] for row in rows] == [
        ["1", "1", "4", "2", "0", "5.00e-05", "5.00e-05"],
        ["2", "2", "4", "2", "0", "4.00e-06", "9.94e-05"],
        ["3", "2", "2", "4", "0", "8.12e-05", "4.00e-10"],
    ]
    assert not run.exists()


def refusal(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert train_decoder.main(arguments) == 2
    return capsys.readouterr().err


def test_mistakes_are_refused_in_one_sentence(
    world: World, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    base = world.overrides(run)
    write_nano_codec(tmp_path / "other_codec", seed=1)
    config = json.loads((tmp_path / "other_codec/config.json").read_text())
    for arguments, said in [
        (
            [*base, "curriculum.micro_batches_per_step=2", "cluster.num_workers=3"],
            "cluster.num_workers 3 does not divide curriculum.micro_batches_per_step 2",
        ),
        (
            [*base, "cluster.min_workers=1", "cluster.num_workers=4"],
            "cluster.num_workers 3 does not divide curriculum.micro_batches_per_step 2",
        ),
        ([*base, "cluster.min_workers=2"], "min_workers must lie between 1 and num_workers 0"),
        (
            [*base, "data.limit_clips=3"],
            "3 training clips are fewer than the 4 of one step: lower curriculum.stages[0]",
        ),
        (
            [*base, f"codec={tmp_path / 'other_codec'}"],
            f"{world.folder}/cache: its codes were written by nano with weights",
        ),
        ([*base, f"data.train={tmp_path}"], str(tmp_path)),
        ([*base, "tracking.wandb=project"], "the package wandb is not installed"),
        ([*base, "optim.peak_lrr=1"], "optim.peak_lrr: unknown key"),
        ([*base, "--resume"], f"{run}: nothing to resume; start the run without --resume"),
        (world.overrides(finished), f"{finished}: not empty (checkpoints, config.yaml, export)"),
        (
            [*world.overrides(finished), "--resume", "optim.peak_lr=1e-3"],
            "optim.peak_lr was 0.0001 and is now 0.001; a resumed run keeps its plan",
        ),
        (
            [*world.overrides(finished), "--resume", "curriculum.context_coarse=0"],
            "curriculum.context_coarse was 1 and is now 0",
        ),
    ]:
        error = refusal(capsys, arguments)
        assert error.startswith("error: ")
        assert said in error
        assert "Traceback" not in error
    assert not run.exists()
    config["vq_strides"] = [8, 4, 2]
    (tmp_path / "other_codec/config.json").write_text(json.dumps(config))
    error = refusal(capsys, [*base, f"codec={tmp_path / 'other_codec'}"])
    assert "its codes have the geometry" in error


def test_a_folder_in_use_is_refused(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray_jobs.config.load import load_config
    from ray_jobs.decoder.train_config import TrainConfig
    from ray_jobs.runtime import run_folder

    run = tmp_path / "run"
    config = load_config(TrainConfig, world.config, [f"run={run}"])
    with run_folder.claim(str(run), config, resume=False) as begin:
        begin()
        error = refusal(capsys, [*world.overrides(run), "--resume"])
    assert f"{run}: in use by process {os.getpid()} on " in error


def test_damage_is_named(
    world: World, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    newest = run / "checkpoints" / f"step-{TOTAL_STEPS:08d}"
    words = [*world.overrides(run), "--resume"]
    assert set(final(run)) == {"model.safetensors", "optimizer.pt", "state.json", "COMPLETE"}
    for name in ("model.safetensors", "optimizer.pt", "state.json"):
        flip_last_bit(newest / name)
        error = refusal(capsys, words)
        assert f"{newest}/{name}: damaged (its crc32 differs from the one in COMPLETE)" in error
        assert "delete the folder to continue from the checkpoint before it" in error
        flip_last_bit(newest / name)
    flip_last_bit(newest / "COMPLETE")  # Without it a checkpoint is half written: it is not there.
    assert train_decoder.main(words) == 0
    assert final(run) == final(finished)


def test_a_damaged_pointer_to_the_best_is_named_and_written_again(
    world: World, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    best = run / "checkpoints" / "best.json"
    flip_last_bit(best)
    shutil.rmtree(run / "export")
    output = ["--dry-run", f"output={tmp_path / 'out'}", f"input={world.folder / 'cache'}"]
    assert decode_codes.main([f"decoder={run}", *output]) == 2
    assert f"{best}: damaged (" in capsys.readouterr().err
    assert train_decoder.main([*world.overrides(run), "--resume"]) == 0
    assert best.read_bytes() == (finished / "checkpoints/best.json").read_bytes()


def test_damaged_clips_are_named_with_their_substitutes(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, run = shutil.copytree(world.folder / "cache", tmp_path / "cache"), tmp_path / "run"
    codes = np.fromfile(cache / "codes.bin", "<i2")
    codes[: 7 * (6 + 7 + 8 + 9)] = 99  # clip00 to clip03; the codebook has 64 codes
    codes.tofile(cache / "codes.bin")
    assert train_decoder.main([*world.overrides(run), f"data.train={cache}"]) == 0
    named = [text for line in metrics(run) if line["kind"] == "step" for text in line["replaced"]]
    said = r"clip0[0-3]: codes\.bin: a code is outside 0 to 63; used clip(0[4-9]|10)"
    assert named
    assert all(re.fullmatch(said, text) for text in named)
    summary = f"0 steps were skipped (not finite) and {len(named)} damaged clips replaced; metrics"
    assert summary in capsys.readouterr().out


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_workers_that_would_starve_the_data_are_refused(
    world: World, tmp_path: Path, ray_local: None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*world.overrides(tmp_path / "run"), "cluster.num_workers=2"]
    assert "leave no whole CPU to read the data" in refusal(capsys, arguments)
    assert os.listdir(tmp_path / "run") == [".lock"], "the same command can be given again"


def test_two_ray_workers_train_what_one_process_trains(
    world: World, finished: Path, tmp_path: Path, ray_local: None
) -> None:
    run = tmp_path / "run"
    assert train_decoder.main([*world.overrides(run), *ON_RAY]) == 0
    names = {path.name for path in run.iterdir()}
    assert names == {
        *("checkpoints", "config.yaml", "export", "metrics.jsonl", "provenance.json", ".lock")
    }
    ours = [(line["step"], line["kind"], line.get("valid_samples")) for line in metrics(run)]
    theirs = [(line["step"], line["kind"], line.get("valid_samples")) for line in metrics(finished)]
    assert ours == theirs
    losses, expected = (
        [line["loss"] for line in metrics(folder) if "loss" in line] for folder in (run, finished)
    )
    assert losses == pytest.approx(expected, rel=1e-4)


@pytest.mark.faults
def test_what_no_restart_mends_ends_a_run_on_ray_at_once(
    world: World, tmp_path: Path, ray_local: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the first rank cannot write its line; the other one waits for it in the next step."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "metrics.jsonl").symlink_to(tmp_path / "no such folder" / "metrics.jsonl")
    rooms = len(ray.util.placement_group_table())
    error = refusal(capsys, [*world.overrides(run), *ON_RAY, "--resume"])
    said = f"error: {run}/metrics.jsonl: could not be written (No such file or directory)"
    assert error.strip().splitlines()[-1].startswith(said)
    assert len(ray.util.placement_group_table()) == rooms + 1, "the workers were started again"


def uploaded_cache(world: World, store: ObjectStore) -> str:
    for path in (world.folder / "cache").rglob("*.*"):
        storage.upload(path, store.uri(str(path.relative_to(world.folder))))
    return store.uri("cache")


def final_on(store: ObjectStore) -> dict[str, bytes]:
    folder = store.uri(f"run/checkpoints/step-{TOTAL_STEPS:08d}")
    names = storage.list_names(folder)
    return {name: storage.read_bytes(storage.join(folder, name)) for name in names}


def test_cache_and_run_on_s3_survive_outages_and_a_kill(
    world: World,
    finished: Path,
    object_store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A store that errs and comes back, one that stays away, and kill -9: the same bytes."""
    run, cache = object_store.uri("run"), uploaded_cache(world, object_store)
    arguments = ["--config", str(world.config), f"run={run}", f"data.train={cache}"]
    checkpoints = storage.join(run, "checkpoints")
    command = [sys.executable, "-m", "ray_jobs.train_decoder", *arguments]
    process = subprocess.Popen(command, cwd=ROOT)
    wait_until(lambda: "step-00000002" in storage.list_names(checkpoints), process)
    process.kill()
    process.wait()

    monkeypatch.setattr(retries, "RETRY_PAUSES_SECONDS", (0.01,) * 3)
    object_store.fails = lambda method, path: method == "PUT" and "step-00000005/optim" in path
    assert train_decoder.main([*arguments, "--resume"]) == 2
    said = capsys.readouterr().err
    assert "step-00000005/optimizer.pt" in said
    assert "the storage failed 4 times in a row" in said
    assert "what was saved is safe: when the storage answers again, continue with --resume" in said

    object_store.fail_once_each()
    monkeypatch.setattr(retries, "RETRY_PAUSES_SECONDS", (0.01,) * 6)
    assert train_decoder.main([*arguments, "--resume"]) == 0
    object_store.fails = lambda _method, _path: False
    for name in WEIGHTS_AND_OPTIMIZER:
        assert final_on(object_store)[name] == final(finished)[name]
    lines = storage.read_bytes(storage.join(run, "metrics.jsonl")).decode().splitlines()
    recorded = [json.loads(line) for line in lines]
    steps = [line["step"] for line in recorded if line["kind"] == "step"]
    assert steps == list(range(1, TOTAL_STEPS + 1))
    assert [line["name"] for line in recorded if line["kind"] == "checkpoint"][-1] == (
        f"step-{TOTAL_STEPS:08d}"
    )
    assert "model.safetensors" in storage.list_names(storage.join(run, "export"))


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_two_ray_workers_on_s3_end_with_the_same_bytes_after_a_kill(
    world: World, whole_on_ray: Path, object_store: ObjectStore
) -> None:
    run, cache = object_store.uri("run"), uploaded_cache(world, object_store)
    arguments = ["--config", str(world.config), f"run={run}", f"data.train={cache}", *ON_RAY]
    process = subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.train_decoder", *arguments], cwd=ROOT
    )
    checkpoints = storage.join(run, "checkpoints")
    wait_until(lambda: "step-00000002" in storage.list_names(checkpoints), process)
    os.kill(worker_pids("ray::RayTrainWorker")[-1], signal.SIGKILL)
    assert process.wait(timeout=500) == 0
    assert final_on(object_store) == final(whole_on_ray)
