"""What an epoch hears, as commands say it, and runs of before there was a choice."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from pathlib import Path

import pytest
import yaml

from ray_jobs import train_decoder, tune_decoder
from ray_jobs.config.load import dump_yaml, load_config
from ray_jobs.decoder.train.plan import plan_training
from ray_jobs.decoder.train_config import TrainConfig
from ray_jobs.sweep import trials as tune_trials
from tests import tune_world
from tests.ray_jobs.nano_training import (
    TOTAL_STEPS,
    WEIGHTS_AND_OPTIMIZER,
    World,
    final,
    metrics,
    steps_recorded,
)


def forget(run: Path) -> None:
    """Take the key out of every file of a run or a sweep, as if 8b30563 had written them."""
    for path in run.rglob("config.yaml"):
        tree = yaml.safe_load(path.read_text())
        del tree["curriculum"]["windows_per_clip"]
        path.write_text(yaml.safe_dump(tree))
    for path in run.rglob("provenance.json"):
        tree = json.loads(path.read_text())
        del tree["config"]["curriculum"]["windows_per_clip"]
        path.write_text(json.dumps(tree))
    for path in run.rglob("state.json"):
        tree = json.loads(path.read_text())
        del tree["plan"]["curriculum"]["windows_per_clip"]
        path.write_text(json.dumps(tree))
        content, marker = path.read_bytes(), json.loads((path.parent / "COMPLETE").read_text())
        marker["files"]["state.json"] = {"bytes": len(content), "crc32": zlib.crc32(content)}
        (path.parent / "COMPLETE").write_text(json.dumps(marker))


def without_the_key(config: Path, folder: Path) -> Path:
    tree = yaml.safe_load(config.read_text())
    del tree["curriculum"]["windows_per_clip"]
    path = folder / "as_before.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def cut_after(run: Path, step: int) -> None:
    """As killed after the checkpoint of `step`."""
    for folder in (run / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)


@pytest.mark.parametrize("saved", [0, 2, 3, 7])
@pytest.mark.parametrize("given", ["the file of before", "the run's own"])
def test_a_run_of_before_goes_on_as_it_was_planned(
    world: World, finished: Path, tmp_path: Path, saved: int, given: str
) -> None:
    """Killed before its first checkpoint, at an epoch's end and inside epochs."""
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "export")
    (run / "checkpoints/best.json").unlink()
    cut_after(run, saved)
    # Other tests are refused a resume of `finished`, which leaves their settings in its file.
    (run / "config.yaml").write_text(dump_yaml(load_config(TrainConfig, world.config)))
    forget(run)
    own = given == "the run's own"
    path = run / "config.yaml" if own else without_the_key(world.config, tmp_path)
    overrides = [f"run={run}", "tracking.tensorboard=false"]
    assert train_decoder.main(["--config", str(path), *overrides, "--resume"]) == 0
    assert steps_recorded(run) == list(range(1, TOTAL_STEPS + 1))
    for name in WEIGHTS_AND_OPTIMIZER:
        assert final(run)[name] == final(finished)[name]
    assert load_config(TrainConfig, run / "config.yaml").curriculum.windows_per_clip == 1
    # The same command goes on a second time, now that the folder has the key.
    assert train_decoder.main(["--config", str(path), *overrides, "--resume"]) == 0


def test_the_plan_of_a_run_of_before_says_how_it_goes_on(
    world: World, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    forget(run)
    path = str(without_the_key(world.config, tmp_path))
    goes_on = ["--dry-run", "--resume"]
    assert train_decoder.main(["--config", path, f"run={run}", *goes_on]) == 0
    printed = capsys.readouterr().out
    assert "8 steps in 3 epochs" in printed
    assert "an epoch hears one window of each clip; curriculum.windows_per_clip=length" in printed
    assert f"{run}: was begun with one window of each clip, and goes on so" in printed
    assert train_decoder.main(["--config", path, f"run={tmp_path / 'new'}", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "8 steps in 3 epochs" not in printed
    assert "goes on so" not in printed


def test_the_plan_says_how_much_is_heard(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By both ways, against the sums of the windows themselves."""
    for choice, rule in (
        ("length", "an epoch hears a clip's samples once, but for less than a segment at its ends"),
        ("1", "an epoch hears one window of each clip; curriculum.windows_per_clip=length"),
    ):
        words = [f"run={tmp_path / 'run'}", f"curriculum.windows_per_clip={choice}"]
        assert train_decoder.main(["--config", str(world.config), *words, "--dry-run"]) == 0
        printed = capsys.readouterr().out
        assert rule in printed
        plan = plan_training(load_config(TrainConfig, world.config, words))
        heard = [plan.setup.windows.heard_samples(e.shape, e.number) for e in plan.epochs]
        audio = plan.setup.cache.catalogue.n_samples[plan.rows].sum()
        found = re.search(
            r"heard: (\S+) hours in the run, (\S+) to (\S+) of (\S+) hours of audio in an epoch "
            r"\((\S+) to (\S+) %\)",
            printed,
        )
        assert found is not None
        hours = [sum(heard), min(heard), max(heard), audio]
        assert [float(x) for x in found.groups()[:4]] == pytest.approx(
            [x / 48_000 / 3600 for x in hours], rel=5e-3
        )
        shares = [100 * min(heard) / audio, 100 * max(heard) / audio]
        assert [float(x) for x in found.groups()[4:]] == pytest.approx(shares, abs=0.051)
        rows = [line.split() for line in printed.splitlines() if line.endswith(" h")]
        assert [float(row[-2]) for row in rows] == pytest.approx(
            [x / 48_000 / 3600 for x in heard], rel=5e-3
        )


def test_a_run_counts_the_samples_that_its_plan_says(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = [*world.overrides(run), "curriculum.windows_per_clip=length"]
    assert train_decoder.main(words) == 0
    plan = plan_training(load_config(TrainConfig, world.config, words[2:]))
    steps = [line for line in metrics(run) if line["kind"] == "step"]
    assert len(steps) == sum(epoch.steps for epoch in plan.epochs) > TOTAL_STEPS
    for epoch in plan.epochs:
        counted = sum(line["valid_samples"] for line in steps if line["epoch"] == epoch.number)
        assert counted == plan.setup.windows.heard_samples(epoch.shape, epoch.number)
    heard = plan.setup.windows.heard_samples(plan.epochs[0].shape, 1)
    assert heard > 0.7 * plan.setup.windows.audio_samples()
    assert train_decoder.main([*world.overrides(run), "--resume"]) == 2  # the file says 1
    said = "curriculum.windows_per_clip was 'length' and is now 1; a resumed run keeps its plan"
    assert said in capsys.readouterr().err


def test_other_choices_are_refused(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for choice in ("2", "'1'", "null", "all"):
        words = [*world.overrides(tmp_path / "run"), f"curriculum.windows_per_clip={choice}"]
        assert train_decoder.main(words) == 2
        assert "curriculum.windows_per_clip: expected 'length' or 1" in capsys.readouterr().err


def test_a_sweep_of_before_goes_on_as_it_was_planned(
    tmp_path: Path, ray_local: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trial is unfinished; its last steps are the ones it would have had."""
    world, run = tune_world.write_world(tmp_path / "world"), tmp_path / "sweep"
    more = ["search.trials=1", "scheduler.kind=none", "checkpoint.every_steps=1"]
    assert tune_decoder.main(["--config", str(world), f"run={run}", *more]) == 0
    folder = Path(tune_trials.folder(str(run), 1))
    last = f"checkpoints/step-{tune_world.STEPS:08d}/model.safetensors"
    whole = (folder / last).read_bytes()
    cut_after(folder, tune_world.STEPS - 3)
    (folder / "checkpoints/best.json").unlink(missing_ok=True)
    (folder / "end.json").unlink()
    forget(run)
    capsys.readouterr()
    as_before = str(without_the_key(world, tmp_path))
    assert tune_decoder.main(["--config", as_before, f"run={run}", *more, "--resume"]) == 0
    assert "goes on so" in capsys.readouterr().out
    assert (folder / last).read_bytes() == whole
    assert load_config(TrainConfig, folder / "config.yaml").curriculum.windows_per_clip == 1
    assert tune_decoder.main(["--config", as_before, f"run={run}", *more, "--resume"]) == 0
