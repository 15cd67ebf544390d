"""What decides over trials: which values come next, which trials stop, when all of it ends.

Nothing here is saved or restored by Ray: a sweep that goes on tells its search and its scheduler
anew what the trials on disk have reached.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from ray import tune
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import Searcher

from ray_jobs.sweep import trials as tune_trials
from ray_jobs.sweep.config import RATE_FACTOR, Distribution, TuneConfig
from ray_jobs.sweep.trials import Reached, Trial
from ray_jobs.training.trackers import WORST_SCORE

METRIC, MODE, TIME = "score", "max", "epochs"
"""What a trial reports (`train_hook.ReportHook`), and what is made of it."""


class TpeSearch(Searcher):
    """Optuna's tree-structured Parzen estimator over the trials that have ended.

    Trials that were noted and are not over come first. A proposal is drawn from (seed, number), so
    that a sweep that goes on does not propose the same again.
    """

    def __init__(self, sweep: TuneConfig, results: Sequence[Reached], count: int) -> None:
        """`results` are what is on disk, `count` the number of trials of the whole sweep."""
        super().__init__(metric=METRIC, mode=MODE)
        self._sweep = sweep
        self._count = count
        self._space = {key: _optuna(values) for key, values in sweep.space.items()}
        self._study = optuna.create_study(direction="maximize")
        self._again = [result.trial.number for result in results if not result.over]
        self._next = max((result.trial.number for result in results), default=-1) + 1
        self._started: dict[str, Trial] = {}
        for result in results:
            if result.over:
                self._learn(result.trial, _score(result))

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """{"number": ...} of a trial that is noted on disk, or FINISHED."""
        if self._again:
            trial = tune_trials.read(self._sweep.run, self._again.pop(0))
        elif self._next < self._count:
            trial = Trial(self._next, self._propose(self._next))
            tune_trials.write(self._sweep.run, trial)
            self._next += 1
        else:
            return Searcher.FINISHED
        self._started[trial_id] = trial
        return {"number": trial.number}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn from a trial that ended, stopped ones included."""
        trial = self._started.pop(trial_id)
        self._learn(trial, _score(tune_trials.reached(self._sweep.run, trial.number)))

    def _propose(self, number: int) -> dict[str, Any]:
        self._study.sampler = optuna.samplers.TPESampler(
            seed=self._sweep.search.seed * 1_000_003 + number
        )
        asked = self._study.ask(self._space)
        # What became of it is told under its own values, once it has ended.
        self._study.tell(asked, state=TrialState.FAIL)
        return {
            key: values.choice[asked.params[key]] if values.choice else asked.params[key]
            for key, values in self._sweep.space.items()
        }

    def _learn(self, trial: Trial, score: float) -> None:
        if trial.number == 0:
            return  # the configuration as it stands need not lie in the space
        params = {
            key: values.choice.index(trial.values[key]) if values.choice else trial.values[key]
            for key, values in self._sweep.space.items()
        }
        self._study.add_trial(create_trial(params=params, distributions=self._space, value=score))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trials on disk say all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


def _score(result: Reached) -> float:
    return WORST_SCORE if result.loss is None else -result.loss


def _optuna(values: Distribution) -> BaseDistribution:
    if values.choice is not None:
        return CategoricalDistribution(range(len(values.choice)))  # Optuna knows no lists
    low, high = values.edges()
    return FloatDistribution(low, high, log=values.loguniform is not None)


@dataclass(frozen=True)
class _Numbered:
    """A trial as the schedulers know it: by its number, whichever start of the sweep it ran in."""

    number: int

    @property
    def trial_id(self) -> str:
        return f"trial-{self.number}"

    @property
    def config(self) -> dict[str, int]:
        return {"number": self.number}


class _ByNumber(FIFOScheduler):
    """Before a scheduler of Ray's: a trial that goes on is not counted again under its new id."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _numbered(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return super().on_trial_result(tune_controller, _numbered(trial), result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, _numbered(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, _numbered(trial))


def _numbered(trial: Any) -> Any:
    return _Numbered(trial.config["number"])


class Asha(_ByNumber, ASHAScheduler):
    """Asynchronous successive halving; trial 0 is ranked with the others and never stopped."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if trial.config["number"] == 0 else decision

    def tell(self, past: Any, report: dict[str, float]) -> None:
        """A report of an earlier start."""
        self.on_trial_result(_NOBODY, past, report)


class MedianStopping(_ByNumber, MedianStoppingRule):
    """Stops what is worse than the median; trial 0 counts for the others and is not judged."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if trial.config["number"] == 0:
            self.tell(trial, result)
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: each report was noted when it came. Ray notes the last one again, and of a trial
        that had only its end left to note an empty one."""

    def tell(self, past: Any, report: dict[str, float]) -> None:
        """A report that only counts for others: this notes it and judges nothing."""
        super().on_trial_complete(_NOBODY, past, report)


_NOBODY: Any = None
"""In the place of Ray Tune's controller, which these schedulers do not ask."""


class Population(PopulationBasedTraining):
    """Population based training; trial 0 keeps its schedule and is not copied.

    A trial at its last epoch is left alone: from there no copy has a step to go.
    """

    def __init__(self, results: Sequence[Reached], last_epoch: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._past = {result.trial.number: _reports(result) for result in results}
        self._last_epoch = last_epoch

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Rank the trial at once by what it reported in earlier starts."""
        super().on_trial_add(tune_controller, trial)
        state = self._trial_state[trial]
        for report in self._past.get(trial.config["number"], ()):
            epochs, since = report[TIME], report[TIME] - state.last_perturbation_time
            due = epochs >= self._burn_in_period and since >= self._perturbation_interval
            if due and self._ranks(trial, report):
                state.last_score = report[METRIC]
                state.last_train_time = state.last_perturbation_time = epochs

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if not self._ranks(trial, result):
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)

    def _ranks(self, trial: Any, report: dict[str, Any]) -> bool:
        return trial.config["number"] != 0 and report.get(TIME, 0) < self._last_epoch


def build_scheduler(
    sweep: TuneConfig, results: Sequence[Reached], most_epochs: int
) -> TrialScheduler:
    """The scheduler of `sweep`, told what earlier trials have reported.

    `most_epochs` is the longest training of the space.
    """
    settings = sweep.scheduler
    told: dict[str, Any] = {"time_attr": TIME, "metric": METRIC, "mode": MODE}
    if settings.kind == "pbt":
        return Population(
            results,
            most_epochs,
            **told,
            perturbation_interval=settings.perturb_every_epochs,
            burn_in_period=settings.grace_epochs,
            hyperparam_mutations={"factor": _mutation(sweep.space[RATE_FACTOR])},
            custom_explore_fn=_WithinSpace(sweep.space[RATE_FACTOR]),
            log_config=False,
            require_attrs=False,  # a trial that had only its end left to note reports nothing
        )
    if settings.kind == "asha":
        scheduler = Asha(
            **told,
            # A trial that has reached its last epoch must not count as stopped.
            max_t=max(most_epochs, settings.grace_epochs) + 1,
            grace_period=settings.grace_epochs,
            reduction_factor=settings.reduction_factor,
        )
    elif settings.kind == "median":
        waits: Any = math.inf  # otherwise trials are paused until there are others to compare with
        scheduler = MedianStopping(
            **told, grace_period=settings.grace_epochs, min_samples_required=2, min_time_slice=waits
        )
    else:
        return FIFOScheduler()
    for result in results:
        past: Any = _Numbered(result.trial.number)
        scheduler.on_trial_add(_NOBODY, past)
        for report in _reports(result):
            scheduler.tell(past, report)
    return scheduler


def _reports(result: Reached) -> list[dict[str, Any]]:
    """What a trial reported in earlier starts: all but step 0, which has no checkpoint."""
    return [
        {TIME: epochs, METRIC: WORST_SCORE if loss is None else -loss}
        for step, loss, epochs in result.curve
        if step > 0
    ]


def _mutation(values: Distribution) -> Any:
    if values.choice is not None:
        return list(values.choice)
    low, high = values.edges()
    return tune.uniform(low, high) if values.uniform is not None else tune.loguniform(low, high)


@dataclass(frozen=True)
class _WithinSpace:
    """Keeps a perturbed factor inside its interval, whose ends were checked."""

    values: Distribution

    def __call__(self, given: dict[str, Any]) -> dict[str, Any]:
        if self.values.choice is not None:
            return given
        low, high = self.values.edges()
        return {**given, "factor": min(max(given["factor"], low), high)}


class Limits(tune.Stopper):
    """Ends the sweep after so many hours, or so many steps of all trials."""

    def __init__(self, sweep: TuneConfig, results: Sequence[Reached]) -> None:
        self.reason: str | None = None
        self._stop = sweep.stop
        self._began = time.monotonic()
        self._earlier_steps = sum(result.step for result in results if result.over)
        self._steps: dict[str, int] = {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Count a report's steps; no single trial is stopped."""
        # Reports count from the trial's first start on; one that had only its end left to note
        # has no step.
        self._steps[trial_id] = max(self._steps.get(trial_id, 0), int(result.get("step", 0)))
        return False

    def stop_all(self) -> bool:
        """Whether a limit is reached."""
        hours = (time.monotonic() - self._began) / 3600
        steps = self._earlier_steps + sum(self._steps.values())
        if self._stop.hours is not None and hours >= self._stop.hours:
            self.reason = f"stop.hours {self._stop.hours:g} is reached"
        if self._stop.steps is not None and steps >= self._stop.steps:
            self.reason = f"stop.steps {self._stop.steps:,} is reached"
        return self.reason is not None
