"""The job of a sweep: the trials that are left, then what they show."""

from __future__ import annotations

from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Invocation
from ray_jobs.sweep import results, space, trials
from ray_jobs.sweep.config import TuneConfig
from ray_jobs.sweep.plan import SweepPlan
from ray_jobs.sweep.run import run_sweep
from ttt import records, storage
from ttt.config import fixed_part
from ttt.errors import UserError
from ttt.snac.train.decoder import require_same_plan


def tune(plan: SweepPlan, invocation: Invocation) -> None:
    """Run the trials that are left; then write what they show."""
    sweep = plan.sweep
    with run_folder.claim(sweep.run, sweep, resume=invocation.resume) as begin:
        if invocation.resume:
            _require_same_sweep(sweep)
        begin()
        ended_early = run_sweep(sweep, invocation.address)
        results.write(sweep, plan.first.setup, ended_early)


def foresee(plan: SweepPlan, sweep: TuneConfig, resume: bool) -> None:
    """Raise the UserError by which `tune` is known to refuse the run."""
    run_folder.foresee(plan, sweep, resume)
    if resume:
        _require_same_sweep(sweep)


def _require_same_sweep(sweep: TuneConfig) -> None:
    """Raises UserError when what has been tried would not be comparable with what is still left."""
    path = storage.join(sweep.run, "provenance.json")
    if storage.exists(path):
        before, now = records.read_json(path)["config"], sweep.to_dict()
        if "space" not in before:
            raise UserError(f"{sweep.run}: not the folder of a sweep; choose another run folder")
        require_same_plan(sweep.run, *(fixed_part(tree, TuneConfig) for tree in (before, now)))
    noted = len(trials.numbers(sweep.run))
    if noted > space.number_of_trials(sweep):
        raise UserError(
            f"{sweep.run} has {noted - 1} trials besides trial 0 and search.trials is "
            f"{sweep.search.trials}; give at least {noted - 1} (stop.steps and stop.hours end a "
            f"sweep early)"
        )
