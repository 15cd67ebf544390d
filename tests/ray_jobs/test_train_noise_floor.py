"""A training that fits a noise floor: on its validation, or by trainings without each fold."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ray_jobs import train_decoder
from ray_jobs.config.load import load_config
from ray_jobs.decoder.train.plan import TrainPlan, kept_out_windows, make_plan
from ray_jobs.decoder.train_config import TrainConfig
from tests.object_store import ObjectStore
from tests.ray_jobs.nano_training import (
    ON_RAY,
    ROOT,
    TOTAL_STEPS,
    World,
    command,
    final,
    steps_recorded,
    wait_until,
)
from tests.ray_jobs.worker_processes import worker_pids
from ttt import checkpoint, storage
from ttt.snac.export import read_config
from ttt.snac.model import Decoder48k

ON_VALIDATION = "noise_floor={folds: 0, max_windows: 5}"
TWO_FOLDS = "noise_floor={folds: 2, seed: 3, max_windows: 7}"
FOLDS = ("folds/1-of-2", "folds/2-of-2")


@pytest.fixture(scope="module")
def folded(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run with two folds."""
    run = tmp_path_factory.mktemp("folded") / "run"
    assert train_decoder.main([*world.overrides(run), TWO_FOLDS]) == 0
    return run


def plan_of(world: World, run: Path, *more: str) -> TrainPlan:
    return make_plan(load_config(TrainConfig, world.config, [f"run={run}", *more]))


def exported(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "export").iterdir())}


def test_a_finished_run_takes_a_floor_that_is_fitted_on_its_validation(
    world: World, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    assert train_decoder.main([*world.overrides(run), ON_VALIDATION, "--resume"]) == 0
    printed = capsys.readouterr().out
    assert "noise floor: fitted on at most 5 windows of 3 validation clips" in printed
    floor = read_config(run / "export").noise_floor
    assert floor is not None
    assert floor.origin is not None
    assert (floor.origin.windows, floor.origin.folds) == (5, 0)
    assert floor.origin.lsd_hf_with < floor.origin.lsd_hf_without
    assert f"{floor.origin.lsd_hf_without:.3f} without" in printed
    ours, before = exported(run), exported(finished)
    assert ours["model.safetensors"] == before["model.safetensors"]
    assert final(run) == final(finished)
    config = json.loads(ours["config.json"])
    del config["noise_floor"]
    assert config == json.loads(before["config.json"])
    # And it is gone again without the key.
    assert train_decoder.main([*world.overrides(run), "--resume"]) == 0
    assert exported(run) == before


def test_folds_part_the_training_clips(world: World, tmp_path: Path) -> None:
    plan = plan_of(world, tmp_path / "run", TWO_FOLDS)
    kept_out = [fold.kept_out_rows.tolist() for fold in plan.folds]
    assert sorted(itertools.chain(*kept_out)) == plan.rows.tolist()
    assert [len(rows) for rows in kept_out] == [4, 4]
    for fold, rows in zip(plan.folds, kept_out, strict=True):
        assert sorted([*fold.rows.tolist(), *rows]) == plan.rows.tolist()
        assert fold.validation_rows.tolist() == plan.validation_rows.tolist()
        assert not fold.folds
        windows, ids = kept_out_windows(fold, 3), plan.setup.cache.catalogue.clip_ids
        heard = {name for index in range(len(windows)) for name in windows[index].clip_ids}
        assert windows.n_windows == 3
        assert heard <= {ids[row] for row in rows}


def test_folds_leave_the_training_as_it_is_and_fit_on_what_was_kept_out(
    world: World, finished: Path, folded: Path
) -> None:
    assert final(folded) == final(finished)
    assert exported(folded)["model.safetensors"] == exported(finished)["model.safetensors"]
    floor = read_config(folded / "export").noise_floor
    assert floor is not None
    assert floor.origin is not None
    assert (floor.seed, floor.origin.windows, floor.origin.folds) == (3, 6, 2)
    for name in FOLDS:
        config = yaml.safe_load((folded / name / "config.yaml").read_text())
        assert config["data"]["without_fold"] == name.removeprefix("folds/").replace("-of-", "/")
        assert config["noise_floor"] is None
        names = {path.name for path in (folded / name).iterdir()}
        assert names == {"checkpoints", "config.yaml", "metrics.jsonl", "provenance.json"}
    Decoder48k.from_pretrained(folded / "export")


def test_a_run_goes_on_in_the_fold_where_it_was(
    world: World, folded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(folded, tmp_path / "run")
    shutil.rmtree(run / "export")
    first, second = (run / name for name in FOLDS)
    last = checkpoint.complete_steps(str(second))[-1]
    for step in range(2, last + 1):
        shutil.rmtree(second / "checkpoints" / f"step-{step:08d}", ignore_errors=True)
    (second / "checkpoints" / "best.json").unlink()
    lines = (first / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert train_decoder.main([*world.overrides(run), TWO_FOLDS, "--resume"]) == 0
    printed = capsys.readouterr().out
    assert "training without fold 2/2" in printed
    assert "training without fold 1/2" not in printed
    assert (first / "metrics.jsonl").read_bytes() == lines
    assert exported(run) == exported(folded)


def test_a_run_that_is_stopped_in_a_fold_says_so_and_goes_on(
    world: World, folded: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(command(world, run, TWO_FOLDS), cwd=ROOT, stdout=subprocess.PIPE)
    wait_until(lambda: 1 in steps_recorded(run / FOLDS[0]), process)
    process.terminate()
    printed = process.communicate(timeout=100)[0].decode()
    assert process.returncode == 0
    assert "training without fold 1/2; continue with --resume" in printed
    assert not (run / "export").exists()
    assert train_decoder.main([*world.overrides(run), TWO_FOLDS, "--resume"]) == 0
    assert exported(run) == exported(folded)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_folds_on_two_ray_workers_and_an_object_store_survive_a_kill(
    world: World, object_store: ObjectStore, tmp_path: Path
) -> None:
    assert train_decoder.main([*world.overrides(tmp_path / "run"), TWO_FOLDS, *ON_RAY]) == 0
    expected = exported(tmp_path / "run")
    assert read_config(tmp_path / "run" / "export").noise_floor is not None
    run = object_store.uri("folded")
    arguments = ["--config", str(world.config), f"run={run}", TWO_FOLDS, *ON_RAY]
    process = subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.train_decoder", *arguments], cwd=ROOT
    )
    second = storage.join(run, FOLDS[1], "checkpoints")
    wait_until(lambda: "step-00000001" in storage.list_names(second), process)
    os.kill(worker_pids("ray::RayTrainWorker")[-1], signal.SIGKILL)
    assert process.wait(timeout=500) == 0
    export = storage.join(run, "export")
    for name, content in expected.items():
        if name != "README.md":  # It names the run.
            assert storage.read_bytes(storage.join(export, name)) == content, name


def test_the_plan_says_what_folds_cost(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*world.overrides(tmp_path / "run"), TWO_FOLDS, "--dry-run"]
    assert train_decoder.main(words) == 0
    steps = [fold.total_steps for fold in plan_of(world, tmp_path / "run", TWO_FOLDS).folds]
    assert steps == [4, 4]
    said = (
        "noise floor: fitted on 2 folds of the training clips by as many more trainings, "
        f"8 steps more; all together costs {1 + 8 / TOTAL_STEPS:.2g} times this training"
    )
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        (["noise_floor={folds: 1}"], "folds must be 0 or at least 2, got 1"),
        (["noise_floor={folds: 3, max_windows: 2}"], "at least 1 for each fold, got 2"),
        (["noise_floor={seed: -1}"], "seed must not be negative"),
        (["noise_floor={folds: 8}"], "noise_floor.folds: without fold 1/8, "),
        (
            ["noise_floor={folds: 9}"],
            "noise_floor.folds: without fold 9/9, which has none of the 8 training clips, nothing "
            "can be fitted: lower noise_floor.folds",
        ),
        (["data.without_fold=3"], "such as 2/5, got 3"),
        (["data.without_fold=6/5"], "such as 2/5, got 6/5"),
        ([ON_VALIDATION, "data.validation_share=null"], "there is no validation to fit on"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    more = ["data.limit_clips=4"] if "8}" in words[0] else []
    assert train_decoder.main([*world.overrides(tmp_path / "run"), *words, *more]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
