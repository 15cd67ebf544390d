"""How a trial ends, goes on and hands on: real trainings, with and without Ray Tune above them."""

from __future__ import annotations

import json
import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ray_jobs import tune_decoder
from ray_jobs.config.load import load_config
from ray_jobs.decoder.train.plan import plan_training
from ray_jobs.decoder.train_config import TrainConfig
from ray_jobs.sweep import (
    results as tune_results,
)
from ray_jobs.sweep import (
    space as tune_space,
)
from ray_jobs.sweep import (
    trials as tune_trials,
)
from ray_jobs.sweep import (
    worker as tune_worker,
)
from ray_jobs.sweep.config import RATE_FACTOR, TuneConfig
from ray_jobs.sweep.trials import Trial
from ray_jobs.training.run import train_in_process
from tests.tune_world import load, write_world
from ttt import checkpoint
from ttt.snac.model import Decoder48k


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def train(sweep: TuneConfig, trial: Trial) -> Path:
    """All of a trial's epochs; the trial's folder."""
    tune_trials.write(sweep.run, trial)
    plan = tune_worker.begun(trial, sweep)
    train_in_process(plan, threading.Event())
    return Path(plan.config.run)


def test_an_exploit_keeps_the_best_checkpoint_of_the_trial_that_goes_on(
    world: Path, tmp_path: Path
) -> None:
    stage = "{first_epoch: 1, last_epoch: 2, segment_seconds: 0.18, clips_per_step: 4}"
    sweep = load(
        world, tmp_path / "run", "scheduler.kind=pbt",
        f"space={{{RATE_FACTOR}: {{loguniform: [0.01, 30]}}}}",
        "curriculum.head_only_epochs=0", "curriculum.epochs=2", f"curriculum.stages=[{stage}]",
    )  # fmt: skip
    tune_trials.write(sweep.run, Trial(0, {}))
    good, poor = Trial(1, {RATE_FACTOR: 20.0}), Trial(2, {RATE_FACTOR: 0.1})
    place, donor = train(sweep, good), train(sweep, poor)
    before = [tune_trials.reached(sweep.run, number) for number in (0, 1, 2)]
    assert tune_trials.best_of(before) == before[1], "else this shows nothing"
    assert before[1].best_step is not None
    best, newest = f"step-{before[1].best_step:08d}", "step-00000002"
    tensors = checkpoint.load(str(place / "checkpoints" / best)).tensors["model"]

    staged = tmp_path / "staged"
    staged.mkdir()
    tune_worker.stage(staged, poor, str(donor / "checkpoints" / newest), str(donor))
    for _ in range(2):  # of the two bests that are put aside, the lower one stays
        heir = tune_worker.go_on_from(staged, good, 0.2, sweep)
        assert heir == tune_trials.read(sweep.run, 1)
        assert heir.copied == ({"step": 2, "from": 2},)
        assert heir.values == {RATE_FACTOR: 0.1, "optim.rate_factors.2": 0.2}
        assert checkpoint.newest_complete(str(place)) == str(place / "checkpoints" / newest)
        after = tune_trials.reached(sweep.run, 1)
        assert (after.loss, after.best_step) == (before[1].loss, before[1].best_step)
        assert (after.trial, after.step, after.place) == (good, 2, str(place / "kept"))
    # A checkpoint of its own changes nothing.
    assert tune_worker.go_on_from(staged, poor, 9.0, sweep) == poor
    assert tune_trials.reached(sweep.run, 2) == before[2]

    # What the sweep leaves is the best that there was.
    setup = plan_training(tune_space.default_config(sweep)).setup
    tune_results.write(sweep, setup, None)
    config = load_config(TrainConfig, tmp_path / "run" / "best.yaml")
    assert config.optim.rate_factors == {0: 20.0}
    exported = Decoder48k.from_pretrained(tmp_path / "run" / "export").state_dict()
    assert all(tensors[name].equal(tensor) for name, tensor in exported.items())
    row = json.loads((tmp_path / "run" / "trials.json").read_text())["trials"][1]
    assert (row["loss"], row["values"], row["copied"]) == (before[1].loss, good.values, [])


@contextmanager
def no_file_above(size_bytes: int) -> Iterator[None]:
    """In the place of a disk that is full: the system refuses to write more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_only_a_user_can_mend_ends_a_trial_at_once(world: Path, tmp_path: Path) -> None:
    sweep = load(world, tmp_path / "run")
    for number, values, said in (
        (1, {}, "step-00000002: the checkpoint could not be written"),
        (2, {"optim.peak_lr": -1.0}, "peak_lr"),
    ):
        tune_trials.write(sweep.run, Trial(number, values))
        with no_file_above(50_000):
            tune_worker.run_alone({"number": number}, sweep)  # if raised, it would be tried again
        result = tune_trials.reached(sweep.run, number)
        assert result.state == "failed"
        assert said in result.why
        assert not result.over, "--resume tries it again"


@pytest.mark.faults  # for its length
def test_a_resumed_median_rule_bears_a_trial_with_only_its_end_left_to_note(
    world: Path, tmp_path: Path, ray_local: None
) -> None:
    run = tmp_path / "run"
    more = ["scheduler.kind=median", "search.trials=1", "concurrent_trials=1"]
    command = ["--config", str(world), f"run={run}", *more]
    assert tune_decoder.main(command) == 0
    for number in (0, 1):  # killed before this was written
        (run / f"trials/{number:04d}/end.json").unlink()
    shutil.rmtree(run / "trials/0001/checkpoints/step-00000006")  # this one has more to report
    assert tune_decoder.main([*command, "--resume"]) == 0
    assert [result.state for result in tune_trials.every_reached(str(run))] == ["finished"] * 2
