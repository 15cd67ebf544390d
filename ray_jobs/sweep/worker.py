"""One trial of a sweep, as a function that Ray Tune runs.

A trial is an ordinary training in the trial's folder: killed, paused or started again it goes on
from its own newest checkpoint, whoever starts it. A trial of one worker runs the loop here and
reads its windows in this process; one of several workers runs Ray Train below it.
"""

from __future__ import annotations

import dataclasses
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from ray_jobs.config.load import dump_yaml
from ray_jobs.decoder.train.plan import TrainPlan, plan_training
from ray_jobs.decoder.train_config import TrainConfig
from ray_jobs.sweep import trials as tune_trials
from ray_jobs.sweep.config import TuneConfig
from ray_jobs.sweep.space import trial_config
from ray_jobs.sweep.trials import METRICS, Trial
from ray_jobs.training.rooms import give_room_back
from ray_jobs.training.run import train_in_process
from ray_jobs.training.trackers import ReportHook
from ray_jobs.training.training_job import require_resumable
from ray_jobs.training.worker import train_on_ray
from ttt import checkpoint, records, storage
from ttt.errors import UserError
from ttt.training.loop import Diverged
from ttt.training.state import fork


def run_alone(given: dict[str, Any], sweep: TuneConfig) -> None:
    """A trial of one worker: the loop, here. `given` names it: {"number": 7}."""
    with _end_noted(sweep.run, given["number"]):
        plan = begun(tune_trials.read(sweep.run, given["number"]), sweep)
        hook = ReportHook(lambda metrics, _folder: tune.report(metrics))
        train_in_process(plan, threading.Event(), [hook])


def run_with_workers(given: dict[str, Any], sweep: TuneConfig) -> None:
    """A trial of several workers: Ray Train below this function, which takes no CPU itself."""
    with _end_noted(sweep.run, given["number"]):
        plan = begun(tune_trials.read(sweep.run, given["number"]), sweep)
        give_room_back(plan.config.run)  # of a start that was killed
        train_on_ray(plan, None, threading.Event(), [TuneReportCallback()])


def run_in_population(given: dict[str, Any], sweep: TuneConfig) -> None:
    """A trial of one worker under pbt; `given` has its rate "factor" of the moment.

    An exploit replaces all that is given by the other trial's, so the trial's number is its name.
    When Ray Tune hands it another trial's checkpoint, it goes on from there. What it then is, a
    schedule of rate factors, is noted, so that it can be trained again as it is.
    """
    number = int(tune.get_context().get_trial_name())
    with _end_noted(sweep.run, number):
        trial, given_checkpoint = tune_trials.read(sweep.run, number), tune.get_checkpoint()
        if given_checkpoint is not None:
            with given_checkpoint.as_directory() as handed:
                trial = go_on_from(Path(handed), trial, given["factor"], sweep)
        plan = begun(trial, sweep)

        def report(metrics: dict[str, float], folder: str) -> None:
            with tempfile.TemporaryDirectory() as staged:
                stage(Path(staged), trial, folder, plan.config.run)
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(staged))

        train_in_process(plan, threading.Event(), [ReportHook(report)])


@contextmanager
def _end_noted(run: str, number: int) -> Iterator[None]:
    """Note how the trial inside the block ends.

    What only a user can mend is not raised: Ray Tune would start the trial anew to meet it anew.
    """
    tune_trials.begin(run, number)
    try:
        yield
    except UserError as error:
        how = "diverged" if isinstance(error, Diverged) else "failed"
        tune_trials.end(run, number, how, str(error))
    else:
        tune_trials.end(run, number, "finished")


def begun(trial: Trial, sweep: TuneConfig) -> TrainPlan:
    """A trial's training, after its folder says what it is."""
    config = _config(trial, sweep)
    plan = plan_training(config)
    require_resumable(plan)
    storage.write_bytes(storage.join(config.run, "config.yaml"), dump_yaml(config).encode())
    records.write_json(storage.join(config.run, "provenance.json"), records.provenance(config))
    return plan


def _config(trial: Trial, sweep: TuneConfig) -> TrainConfig:
    return trial_config(sweep, trial.values, tune_trials.folder(sweep.run, trial.number))


# -- population based training ---------------------------------------------------------------------

_ORIGIN = "origin.json"


def stage(copy: Path, trial: Trial, folder: str, run: str) -> None:
    """Copy the checkpoint `folder` of `run` and what led to it: its own may be gone when another
    trial goes on from it."""
    for name in storage.list_names(folder):
        (copy / name).write_bytes(storage.read_bytes(storage.join(folder, name)))
    (copy / METRICS).write_bytes(storage.read_bytes(storage.join(run, METRICS)))
    records.write_json(copy / _ORIGIN, dataclasses.asdict(trial))


def go_on_from(handed: Path, trial: Trial, factor: float, sweep: TuneConfig) -> Trial:
    """Put a staged checkpoint of another trial in the place of the trial's own, of which the best
    is kept aside; returns what the trial now is. One of its own changes nothing.

    Stopped in the middle, the trial starts at step 0 under one of the two schedules, and comes to
    the same weights.
    """
    donor = tune_trials.from_json(records.read_json(handed / _ORIGIN))
    if donor.number == trial.number:
        return trial
    step = checkpoint.read_state(str(handed))["train"]["step"]
    heir = Trial(
        number=trial.number,
        values={**donor.values, f"optim.rate_factors.{step}": factor},
        copied=(*donor.copied, {"step": step, "from": donor.number}),
    )
    tune_trials.keep_best(sweep.run, trial.number)
    place = tune_trials.folder(sweep.run, trial.number)
    storage.delete(storage.join(place, "checkpoints"))
    tune_trials.write(sweep.run, heir)
    storage.write_bytes(storage.join(place, METRICS), (handed / METRICS).read_bytes())
    config = _config(heir, sweep)
    fork(str(handed), place, plan_training(config).loop_settings().plan)
    return heir
