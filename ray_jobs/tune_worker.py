"""One trial of a sweep, as a function that Ray Tune runs.

A trial is an ordinary training in the trial's folder: killed, paused or started again it goes on
from its own newest checkpoint, whoever starts it. A trial of one worker runs the loop here and
reads its windows in this process; one of several workers runs Ray Train below it.
"""

from __future__ import annotations

import dataclasses
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from ray_jobs import train_room, train_worker, tune_trials
from ray_jobs.config import dump_yaml
from ray_jobs.train_config import TrainConfig
from ray_jobs.train_hook import ReportHook
from ray_jobs.train_setup import loop_settings, prepare
from ray_jobs.train_worker import Outcome
from ray_jobs.tune_config import TuneConfig
from ray_jobs.tune_space import trial_config
from ray_jobs.tune_trials import METRICS, Trial
from ttt import records, storage
from ttt.snac.train_loop import Diverged
from ttt.snac.train_state import fork


def run_alone(given: dict[str, Any], sweep: TuneConfig) -> None:
    """A trial of one worker: the loop, here. `given` names it: {"number": 7}."""

    def train(config: TrainConfig) -> Outcome:
        hook = ReportHook(lambda metrics, _folder: tune.report(metrics))
        return train_worker.train_in_process(config, threading.Event(), [hook])

    _run(tune_trials.read(sweep.run, given["number"]), sweep, train)


def run_with_workers(given: dict[str, Any], sweep: TuneConfig) -> None:
    """A trial of several workers: Ray Train below this function, which takes no CPU itself."""

    def train(config: TrainConfig) -> Outcome:
        train_room.give_back(config.run)  # of a start that was killed
        callback = TuneReportCallback()
        return train_worker.train_on_ray(config, None, threading.Event(), [callback])

    _run(tune_trials.read(sweep.run, given["number"]), sweep, train)


def run_in_population(given: dict[str, Any], sweep: TuneConfig) -> None:
    """A trial of one worker under pbt; `given` has its rate "factor" of the moment.

    An exploit replaces all that is given by the other trial's, so the trial's number is its name.
    When Ray Tune hands it another trial's checkpoint, it goes on from there. What it then is, a
    schedule of rate factors, is noted, so that it can be trained again as it is.
    """
    trial = tune_trials.read(sweep.run, int(tune.get_context().get_trial_name()))
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as handed:
            origin = records.read_json(Path(handed) / _ORIGIN)
            if origin["trial"]["number"] != trial.number:
                trial = _go_on_from(Path(handed), origin, trial, given["factor"], sweep)

    def train(config: TrainConfig) -> Outcome:
        hook = ReportHook(lambda metrics, folder: _hand_out(trial, metrics, folder, config.run))
        return train_worker.train_in_process(config, threading.Event(), [hook])

    _run(trial, sweep, train)


def _run(trial: Trial, sweep: TuneConfig, train: Callable[[TrainConfig], Outcome]) -> None:
    tune_trials.begin(sweep.run, trial.number)
    config = _config(trial, sweep)
    storage.write_bytes(storage.join(config.run, "config.yaml"), dump_yaml(config).encode())
    records.write_json(storage.join(config.run, "provenance.json"), records.provenance(config))
    try:
        train(config)
    except Diverged as error:
        # Raised again, Ray Tune would start the trial anew to meet it anew.
        tune_trials.end(sweep.run, trial.number, "diverged", str(error))
    else:
        tune_trials.end(sweep.run, trial.number, "finished")


def _config(trial: Trial, sweep: TuneConfig) -> TrainConfig:
    return trial_config(sweep, trial.values, tune_trials.folder(sweep.run, trial.number))


# -- population based training ---------------------------------------------------------------------

_ORIGIN = "origin.json"


def _hand_out(trial: Trial, metrics: dict[str, float], folder: str, run: str) -> None:
    """Report with a whole copy of the checkpoint: its own may be gone when another trial goes on
    from it."""
    with tempfile.TemporaryDirectory() as staged:
        copy = Path(staged)
        for name in storage.list_names(folder):
            (copy / name).write_bytes(storage.read_bytes(storage.join(folder, name)))
        (copy / METRICS).write_bytes(storage.read_bytes(storage.join(run, METRICS)))
        origin = {"trial": dataclasses.asdict(trial), "step": int(metrics["step"])}
        records.write_json(copy / _ORIGIN, origin)
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(staged))


def _go_on_from(
    handed: Path, origin: dict[str, Any], trial: Trial, factor: float, sweep: TuneConfig
) -> Trial:
    """Put another trial's checkpoint in the place of this trial's own.

    Stopped in the middle, the trial starts at step 0 under one of the two schedules, and comes to
    the same weights.
    """
    donor, step = tune_trials.from_json(origin["trial"]), origin["step"]
    heir = Trial(
        number=trial.number,
        values={**donor.values, f"optim.rate_factors.{step}": factor},
        copied=(*donor.copied, {"step": step, "from": donor.number}),
    )
    place = tune_trials.folder(sweep.run, trial.number)
    storage.delete(storage.join(place, "checkpoints"))
    tune_trials.write(sweep.run, heir)
    storage.write_bytes(storage.join(place, METRICS), (handed / METRICS).read_bytes())
    config = _config(heir, sweep)
    fork(str(handed), place, loop_settings(config, prepare(config)).plan)
    return heir
