r"""Moshi with and without TTT on everything: whole chapters, and benchmarks made of pairs.

    python -m ray_jobs.evaluate_all --config configs/evaluate_all.yaml \
        chapters.data.root=FOLDER pairs.tasks.swuggy.root=FOLDER model.ttt=FOLDER output=runs/all
    python -m ray_jobs.evaluate_all --rescore runs/all

Killed at any moment and run again with --resume, it hears only what has no record yet.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ray_jobs.moshi.all_config import EvaluateAllConfig
from ray_jobs.runtime import cli


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    again = "recompute a run from its records and stop"
    return cli.run(
        EvaluateAllConfig,
        plan=cli.later("ray_jobs.moshi.together:make_plan"),
        describe=cli.later("ray_jobs.moshi.together:describe"),
        execute=cli.later("ray_jobs.moshi.together:execute"),
        foresee=cli.later("ray_jobs.runtime.run_folder:foresee"),
        doc=__doc__ or "",
        argv=argv,
        actions=[
            cli.Action("--rescore", ("RUN",), again, cli.later("ray_jobs.moshi.together:rescore"))
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
