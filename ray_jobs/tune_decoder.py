"""`python -m ray_jobs.tune_decoder`: search for better training settings with Ray Tune.

    python -m ray_jobs.tune_decoder --config configs/tune_default.yaml data.train=CACHE run=DIR
    python -m ray_jobs.tune_decoder --config configs/tune_default.yaml ... --resume

The configuration is that of ray_jobs.train_decoder with a `space`: keys of it, and what each may
become. Trial 0 is the configuration as it stands; the report says whether any trial beats it. At
the end DIR holds best.yaml (ready for ray_jobs.train_decoder), trials.csv, trials.json,
report.html and the best trial's decoder in export. Killed at any moment, --resume goes on: a trial
that is over is not repeated, and the others continue from their newest checkpoints. While a
trial has failed, the command ends with an error after it has written all that.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Invocation, later, run
from ray_jobs.sweep.config import TuneConfig
from ttt import records, storage
from ttt.config import fixed_part
from ttt.errors import UserError

if TYPE_CHECKING:
    from ray_jobs.sweep.plan import SweepPlan


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(
        TuneConfig,
        plan=later("ray_jobs.sweep.plan:make_plan"),
        describe=later("ray_jobs.sweep.plan:describe"),
        execute=execute,
        doc=__doc__ or "",
        argv=argv,
    )


def execute(plan: SweepPlan, invocation: Invocation) -> None:
    """Run the trials that are left; then write what they show."""
    from ray_jobs.sweep import results as tune_results
    from ray_jobs.sweep import run as tune_sweep

    sweep = plan.sweep
    with run_folder.claim(sweep.run, sweep, resume=invocation.resume) as begin:
        if invocation.resume:
            _require_same_sweep(sweep)
        begin()
        ended_early = tune_sweep.run_sweep(sweep, invocation.address)
        tune_results.write(sweep, plan.first.setup, ended_early)


def _require_same_sweep(sweep: TuneConfig) -> None:
    """Raises UserError when what has been tried would not be comparable with what is still left."""
    from ray_jobs.sweep import space as tune_space
    from ray_jobs.sweep import trials as tune_trials
    from ttt.snac.train.decoder import require_same_plan

    path = storage.join(sweep.run, "provenance.json")
    if storage.exists(path):
        before, now = records.read_json(path)["config"], sweep.to_dict()
        if "space" not in before:
            raise UserError(f"{sweep.run}: not the folder of a sweep; choose another run folder")
        require_same_plan(sweep.run, *(fixed_part(tree, TuneConfig) for tree in (before, now)))
    noted = len(tune_trials.numbers(sweep.run))
    if noted > tune_space.number_of_trials(sweep):
        raise UserError(
            f"{sweep.run} has {noted - 1} trials besides trial 0 and search.trials is "
            f"{sweep.search.trials}; give at least {noted - 1} (stop.steps and stop.hours end a "
            f"sweep early)"
        )


if __name__ == "__main__":
    sys.exit(main())
