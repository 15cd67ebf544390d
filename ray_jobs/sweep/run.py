"""Running a sweep: Ray Tune over the trials that are not over yet.

Ray Tune places trials, restarts lost ones and stops bad ones. What it saves is never read: that
would be pickles (so tune.run, since what Tuner.fit returns unpickles the errors of failed trials).
Started again, the sweep makes a new Tune run of the trials that its own folder says are left, and
each of them goes on from its own newest checkpoint.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune

from ray_jobs.runtime.connection import ray_session, require_free_cpu_per_node, require_room
from ray_jobs.runtime.gauges import exported
from ray_jobs.runtime.progress import Progress
from ray_jobs.sweep import space as tune_space
from ray_jobs.sweep import trials as tune_trials
from ray_jobs.sweep.config import RATE_FACTOR, TuneConfig
from ray_jobs.sweep.search import Limits, TpeSearch, build_scheduler
from ray_jobs.sweep.trials import Reached, Trial
from ray_jobs.sweep.worker import run_alone, run_in_population, run_with_workers
from ray_jobs.training.config import ClusterConfig
from ray_jobs.training.rooms import RAY_FOLDER, give_room_back
from ttt import storage
from ttt.errors import UserError


def run_sweep(sweep: TuneConfig, address: str | None) -> str | None:
    """Run all trials that are not over; why it ended early, or None.

    Raises UserError when no node has room for a trial.
    """
    results = tune_trials.every_reached(sweep.run)
    count = tune_space.number_of_trials(sweep)
    if sum(result.over for result in results) == count:
        return None
    storage.delete(storage.join(sweep.run, _RAY_FOLDER))  # of a start that was killed
    # Ray Tune would add its own files for every trial, miss them without, print tables beside our
    # progress, and on Ctrl-C wait for the trials.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    with ray_session(address or sweep.cluster.address, sweep.cluster.local_cpus):
        at_once = _trials_at_once(sweep)
        # Only now: a command that was refused can be given again.
        _note(sweep, [{}] if sweep.search.kind == "tpe" else [{}, *tune_space.drawn(sweep)])
        results = tune_trials.every_reached(sweep.run)
        limits = Limits(sweep, results)
        over = sum(result.over for result in results)
        with (
            Progress("sweep", count, "trials", done=over) as progress,
            exported(progress, "tune_decoder", sweep.run),
        ):
            watcher = _Watcher(sweep, limits, progress)
            _run_trials(sweep, results, count, at_once, limits, watcher)
    storage.delete(storage.join(sweep.run, _RAY_FOLDER))
    for number in tune_trials.numbers(sweep.run):  # left by stopped trials of several workers
        storage.delete(storage.join(tune_trials.folder(sweep.run, number), RAY_FOLDER))
    return limits.reason


_RAY_FOLDER = "ray_tune"


def _note(sweep: TuneConfig, values: Sequence[dict[str, Any]]) -> None:
    """Write down every trial that is not yet."""
    known = set(tune_trials.numbers(sweep.run))
    for number, mine in enumerate(values):
        if number not in known:
            tune_trials.write(sweep.run, Trial(number, mine))


def _run_trials(
    sweep: TuneConfig,
    results: Sequence[Reached],
    count: int,
    at_once: int | None,
    limits: Limits,
    watcher: tune.Callback,
) -> None:
    cluster, left = sweep.cluster, [result for result in results if not result.over]
    space: dict[str, Any] = {}
    search = None
    if sweep.search.kind == "tpe":
        search = TpeSearch(sweep, results, count)
    else:
        space = {"number": tune.grid_search([result.trial.number for result in left])}
    function: Any = run_alone
    resources: dict[str, float] = {"cpu": cluster.cpus_per_worker, "gpu": cluster.gpus_per_worker}
    max_failures = cluster.max_failures
    if sweep.scheduler.kind == "pbt":
        numbers = [result.trial.number for result in left]
        factors = {number: _factor(tune_trials.read(sweep.run, number)) for number in numbers}
        space["factor"] = tune.sample_from(lambda given: factors[given["number"]])
        function = run_in_population
    elif cluster.num_workers > 1:
        # Its workers ask for their own room. Ray Tune refuses a trial that takes nothing, and any
        # share of a CPU would break the whole one that must stay free: a byte, then.
        function, resources = run_with_workers, {"memory": 1}
        max_failures = 0  # Ray Train below it starts lost workers again, so many times
    tune.run(
        tune.with_resources(tune.with_parameters(function, sweep=sweep), resources),
        name=_RAY_FOLDER,
        storage_path=sweep.run,
        config=space,
        num_samples=count if search is not None else 1,
        search_alg=search,
        scheduler=build_scheduler(sweep, results, tune_space.most_epochs(sweep)),
        max_concurrent_trials=at_once,
        trial_name_creator=lambda trial: f"{trial.config['number']:04d}",
        trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}",
        stop=limits,
        callbacks=[watcher],
        max_failures=max_failures,
        raise_on_failed_trial=False,
        verbose=0,
    )


def _factor(trial: Trial) -> float:
    """The rate factor that a trial of a population trains with at its newest step."""
    prefix = RATE_FACTOR.rpartition(".")[0]
    by_step = {int(key.removeprefix(f"{prefix}.")): f for key, f in trial.values.items()}
    return by_step[max(by_step)] if by_step else 1.0


def _trials_at_once(sweep: TuneConfig) -> int | None:
    """As many as the nodes hold beside a whole CPU that reads data; None leaves it to Ray Tune."""
    cluster = sweep.cluster
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if cluster.num_workers == 1:
        wanted = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
        if not any(all(n.get(k, 0) >= v for k, v in wanted.items()) for n in nodes):
            raise UserError(
                f"no node has the {cluster.cpus_per_worker:g} CPU"
                f"{' and the GPU' if cluster.gpus_per_worker else ''} of a trial; lower "
                f"cluster.cpus_per_worker, or add nodes"
            )
        return sweep.concurrent_trials
    at_once = sweep.concurrent_trials or 1
    _require_room(cluster, at_once)
    while sweep.concurrent_trials is None and _fit(cluster, at_once + 1):
        at_once += 1
    return at_once


def _require_room(cluster: ClusterConfig, trials: int) -> None:
    workers = trials * cluster.num_workers
    require_free_cpu_per_node(workers, cluster.cpus_per_worker)
    require_room(workers, cluster.cpus_per_worker, cluster.gpus_per_worker)


def _fit(cluster: ClusterConfig, trials: int) -> bool:
    try:
        _require_room(cluster, trials)
    except UserError:
        return False
    return True


_SECONDS_TO_GIVE_BACK = 60


class _Watcher(tune.Callback):
    """Notes how trials end where they cannot do so themselves, and shows how far the sweep is."""

    def __init__(self, sweep: TuneConfig, limits: Limits, progress: Progress) -> None:
        self._sweep = sweep
        self._limits = limits
        self._progress = progress
        self._best: float | None = None
        self._ended: dict[int, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune saves its callbacks, and a terminal cannot be saved; nobody reads it.
        return {}

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any
    ) -> None:
        loss = result.get("validation_loss")
        if loss is not None and (self._best is None or loss < self._best):
            self._best = loss
            self._progress.advance(0, best_loss=loss)

    def on_step_end(self, iteration: int, trials: Any, **_: Any) -> None:
        # For a while, since Ray Train may try again before it hears that its trial is over.
        for number, ended in list(self._ended.items()):
            give_room_back(tune_trials.folder(self._sweep.run, number))
            if time.monotonic() - ended > _SECONDS_TO_GIVE_BACK:
                del self._ended[number]

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        number = int(str(trial))  # its name; under pbt its config may be another's
        self._ended[number] = time.monotonic()
        result = tune_trials.reached(self._sweep.run, number)
        if result.state == "unfinished" and self._limits.reason is None:
            # The scheduler ended it, be it at its last epoch.
            config = tune_space.trial_config(self._sweep, result.trial.values, self._sweep.run)
            whole = result.epochs >= config.curriculum.epochs
            why = "" if whole else f"by the scheduler after epoch {result.epochs}"
            tune_trials.end(self._sweep.run, number, "finished" if whole else "stopped", why)
        if tune_trials.reached(self._sweep.run, number).over:
            self._progress.advance(1)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        number = int(str(trial))
        self._ended[number] = time.monotonic()
        # The text beside the pickled exception, where Ray Tune has just written it: what it keeps
        # in the sweep's folder is a copy, made later.
        errors = Path(trial.error_file).read_text(encoding="utf-8")
        tune_trials.end(self._sweep.run, number, "failed", _last_message(errors))


def _last_message(errors: str) -> str:
    """The last failure in an error.txt of Ray Tune's, without its traceback."""
    last = re.split(r"^Failure # \d+ \(occurred at .*\)\n", errors, flags=re.MULTILINE)[-1]
    frame = re.compile(r"^  File .*\n(?:    .*\n)*", flags=re.MULTILINE)
    return frame.split(last)[-1].strip()
