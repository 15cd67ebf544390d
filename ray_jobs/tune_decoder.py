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

from ray_jobs.runtime.cli import later, run
from ray_jobs.sweep.config import TuneConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(
        TuneConfig,
        plan=later("ray_jobs.sweep.plan:make_plan"),
        describe=later("ray_jobs.sweep.plan:describe"),
        execute=later("ray_jobs.sweep.job:tune"),
        foresee=later("ray_jobs.sweep.job:foresee"),
        doc=__doc__ or "",
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
