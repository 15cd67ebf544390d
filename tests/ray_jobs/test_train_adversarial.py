"""The training command with discriminators: plan, export, starts from it, refusals, kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from ray_jobs import train_decoder
from tests.nano_cache import write_nano_codec
from tests.ray_jobs.nano_training import (
    ON_RAY,
    ROOT,
    TOTAL_STEPS,
    World,
    command,
    final,
    metrics,
    steps_recorded,
    wait_until,
)
from tests.ray_jobs.worker_processes import slowed, worker_pids
from tests.ttt.snac.train.rig import NANO_DISCRIMINATORS
from ttt import checkpoint
from ttt.snac.discriminators import Discriminators, load
from ttt.snac.model import Decoder48k

PHASE = [
    *(
        f"adversarial.discriminators.{name}={json.dumps(value)}"
        for name, value in NANO_DISCRIMINATORS.to_dict().items()
    ),
    "adversarial.first_epoch=2",
    "adversarial.hold_steps=1",
    "adversarial.ramp_steps=2",
    "validation.best_by=guarded",
    "optim.ema_decay=0.5",
]


@pytest.fixture(scope="session")
def taught(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("taught") / "run"
    assert train_decoder.main([*world.overrides(run), *PHASE, "tracking.tensorboard=true"]) == 0
    return run


def test_a_run_leaves_the_best_steps_discriminators_beside_its_decoder(taught: Path) -> None:
    best = checkpoint.load(str(checkpoint.best(str(taught))))
    networks = Discriminators(NANO_DISCRIMINATORS)
    load(networks, taught / "export" / "discriminators")
    for name, tensor in networks.state_dict().items():
        assert torch.equal(tensor, best.tensors["discriminators"][name])
    exported = Decoder48k.from_pretrained(taught / "export").state_dict()
    assert all(torch.equal(tensor, best.tensors["ema"][name]) for name, tensor in exported.items())


def test_metrics_and_tensorboard_have_their_terms(taught: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    terms = {"discriminator", "adversarial", "feature"}
    steps = [line for line in metrics(taught) if line["kind"] == "step"]
    assert [terms <= line["terms"].keys() for line in steps] == [False] * 2 + [True] * 6
    assert all("discriminators" in line["learning_rate"] for line in steps)
    assert all(line["judged_samples"] <= line["valid_samples"] for line in steps)
    validations = [line for line in metrics(taught) if line["kind"] == "validation"]
    assert all({"lsd_hf", "env_r"} == set(line["rows"]["tricks"]) for line in validations)
    assert all(line["value"] != line["loss"] for line in validations)
    events = EventAccumulator(str(taught / "tensorboard"))
    events.Reload()
    scalars = {f"train/{name}" for name in terms} | {"learning_rate/discriminators"}
    assert scalars <= set(events.Tags()["scalars"])


def test_dry_run_counts_them(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_decoder.main([*world.overrides(tmp_path / "run"), *PHASE, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    parameters = Discriminators(NANO_DISCRIMINATORS).n_parameters
    assert f"discriminators: xcodec2, 4 networks of {parameters:,} parameters" in printed
    assert "they begin after step 2, learn alone for 1 steps" in printed

    def memory(row: int) -> float:
        rows = [line.split() for line in printed.splitlines() if line.strip()[:1].isdigit()][1:]
        return float(rows[row][rows[row].index("GB") - 1])

    assert memory(1) >= memory(0)


def test_training_begins_with_an_export_exactly(
    world: World, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, export = tmp_path / "run", taught / "export"
    starts = [f"init_from={export}", f"adversarial.start_from={export / 'discriminators'}"]
    still = ["optim.head_only_lr=1e-30", "optim.peak_lr=1e-30", "optim.weight_decay=0"]
    capsys.readouterr()
    assert train_decoder.main([*world.overrides(run), *PHASE, *starts, *still]) == 0
    value = json.loads((run / "checkpoints" / "best.json").read_text())["value"]
    assert ("at no validation did all guards hold" in capsys.readouterr().out) == (value > 1000)
    first = checkpoint.load(str(run / "checkpoints/step-00000001")).tensors
    exported = Decoder48k.from_pretrained(export).state_dict()
    assert all(torch.equal(first["model"][name], tensor) for name, tensor in exported.items())
    networks = Discriminators(NANO_DISCRIMINATORS)
    load(networks, export / "discriminators")
    begun = first["discriminators"]
    assert all(torch.equal(begun[name], each) for name, each in networks.state_dict().items())
    # The reference rows are still the untouched decoder's.
    rows = [
        next(line for line in metrics(each) if line["kind"] == "validation")["rows"]
        for each in (taught, run)
    ]
    for name in ("resampled_decode24", "resampled_true24", "tricks"):
        assert rows[0][name] == rows[1][name]
    assert rows[0]["ours_48k"] != rows[1]["ours_48k"]
    # It may move while the run goes on, but not change.
    moved = shutil.copytree(export, tmp_path / "moved")
    again = [*world.overrides(run), *PHASE, *still, starts[1], "--resume"]
    assert train_decoder.main([*again, f"init_from={moved}"]) == 0
    (moved / "model.safetensors").write_bytes((export / "model.safetensors").read_bytes()[:-1])
    assert train_decoder.main([*again, f"init_from={moved}"]) == 2
    assert "model.safetensors" in capsys.readouterr().err
    assert train_decoder.main(again) == 2
    said = capsys.readouterr().err
    assert "init_from names other weights than this run was begun with (sha256 " in said
    assert "then, none now)" in said


def test_what_cannot_begin_is_refused_in_one_sentence(
    world: World, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = taught / "export"
    base = world.overrides(tmp_path / "run")
    write_nano_codec(tmp_path / "codec", seed=1)
    for arguments, said in [
        ([f"init_from={tmp_path}"], f"{tmp_path}/config.json: not found; give a folder that"),
        (
            [f"init_from={export}", "init=noble"],
            f"init_from {export}: its init is interp and this training's is noble; give an export",
        ),
        ([*PHASE, "adversarial.first_epoch=9"], "first_epoch 9 lies beyond the run's 3 epochs"),
        (
            ["adversarial.first_epoch=2"],
            "begins after step 2 and the decoder hears of it adversarial.hold_steps 1000 later, "
            "beyond the run's 8 steps; begin earlier, hold it back for less, or set",
        ),
        ([*PHASE, f"adversarial.start_from={tmp_path}"], "no discriminators there; give the"),
        (
            ["adversarial.hold_steps=1", f"adversarial.start_from={export}/discriminators"],
            "built otherwise (periods, period_channels, period_max_channels, n_ffts",
        ),
        (
            ["validation.best_by=guarded", "data.validation_share=null"],
            "best_by is guarded and there is no validation; set data.validation",
        ),
        (["adversarial.discriminators.band_edges=[0,1]"], "band_edges is read by recipe dac alone"),
    ]:
        assert train_decoder.main([*base, *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_kill_minus_nine_at_any_step_ends_with_the_same_bytes(
    world: World, tmp_path: Path, workers: str
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    on_ray = [*PHASE, *ON_RAY, f"cluster.num_workers={workers}"]
    subprocess.run(command(world, whole, *on_ray), cwd=ROOT, check=True)
    process = subprocess.Popen(command(world, run, *on_ray), cwd=ROOT)
    at = int.from_bytes(os.urandom(1)) % (TOTAL_STEPS - 3) + 2
    print(f"killed after step {at}")
    wait_until(lambda: at in steps_recorded(run), process)
    with slowed(worker_pids("ray::RayTrainWorker", below=process.pid)):
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=100) == -signal.SIGKILL
    subprocess.run(command(world, run, *on_ray, "--resume"), cwd=ROOT, check=True)
    assert steps_recorded(run) == list(range(1, TOTAL_STEPS + 1))
    assert final(run) == final(whole)
    best = "checkpoints/best.json"
    assert (run / best).read_bytes() == (whole / best).read_bytes()
