"""What a sweep will do, found before it takes anything."""

from __future__ import annotations

from dataclasses import dataclass

from ray_jobs.decoder.train import words as train_words
from ray_jobs.decoder.train.as_begun import as_begun, with_absolute_paths
from ray_jobs.decoder.train.plan import TrainPlan, plan_training
from ray_jobs.sweep import space as tune_space
from ray_jobs.sweep import trials as tune_trials
from ray_jobs.sweep.config import TuneConfig


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep will do."""

    sweep: TuneConfig
    """With absolute paths, as its folder was begun."""
    told: TuneConfig
    """The same with the paths that the user wrote, for words."""
    first: TrainPlan
    """Trial 0, the training as it stands."""
    goes_on_as_begun: bool
    """Whether it keeps to one window of each clip, as `TrainPlan` has it."""


def make_plan(sweep: TuneConfig) -> SweepPlan:
    """Raises what any possible trial raises before its first step, all problems at once."""
    given, sweep = sweep, as_begun(sweep)
    codec = tune_space.require_valid(sweep)
    first = tune_space.trial_config(sweep, {}, tune_trials.folder(sweep.run, 0))
    plan = plan_training(first, codec)
    return SweepPlan(with_absolute_paths(sweep), sweep, plan, sweep != given)


def describe(plan: SweepPlan) -> str:
    """The sweep in words."""
    sweep, search, scheduler = plan.told, plan.told.search, plan.told.scheduler
    trainings = tune_space.number_of_trials(sweep)
    lines = [
        train_words.describe(plan.first),
        *([f"{sweep.run}: {train_words.GOES_ON}"] * plan.goes_on_as_begun),
        "",
        f"sweep: {trainings:,} trainings: trial 0 is the plan above, {trainings - 1:,} more "
        f"({'combinations' if search.kind == 'grid' else 'search.trials'}) vary",
        *(f"  {key}: {words}" for key, words in tune_space.in_words(sweep).items()),
        f"search {search.kind}, scheduler {scheduler.kind}",
        f"writes: {sweep.run}/ trials, best.yaml, trials.csv, trials.json, report.html, export",
    ]
    return "\n".join(lines)
