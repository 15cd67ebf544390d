r"""Moshi with and without TTT on sWUGGY, sBLIMP, the StoryClozes and SALMon.

    python -m ray_jobs.evaluate_pairs --config configs/paper_metrics.yaml \
        tasks.swuggy.root=sLM21/lexical model.ttt=FOLDER output=runs/pairs
    python -m ray_jobs.evaluate_pairs --rescore runs/pairs
    python -m ray_jobs.evaluate_pairs --compare runs/one:baseline-paper runs/other:ttt-paper

Killed at any moment and run again with --resume, it scores only shards that have no scores yet.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ray_jobs.moshi.pairs.config import EvaluatePairsConfig
from ray_jobs.runtime import cli


def rescore(folder: str) -> None:
    """Compute everything of a run again from its records."""
    from ray_jobs.moshi.evaluation import write_results
    from ray_jobs.moshi.pairs.run import JOB

    write_results(JOB, Path(folder))
    print(f"report: {folder}/report.html")


def compare(first: str, second: str, output: str | None) -> None:
    """Print and write the paired comparison of one run's model and setting with another's."""
    from ray_jobs.moshi.compare import compare_pairs, publish

    publish(compare_pairs(first, second), output)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    actions = [
        cli.Action("--rescore", ("RUN",), "recompute a run from its records and stop", rescore),
        cli.Action(
            "--compare",
            ("RUN", "RUN"),
            "compare RUN[:MODEL-SETTING] with another; output=FOLDER for its page",
            compare,
            takes_output=True,
        ),
    ]
    return cli.run(
        EvaluatePairsConfig,
        plan=cli.later("ray_jobs.moshi.pairs.plan:make_plan"),
        describe=cli.later("ray_jobs.moshi.pairs.plan:describe"),
        execute=cli.later("ray_jobs.moshi.pairs.run:evaluate"),
        foresee=cli.later("ray_jobs.runtime.run_folder:foresee_unchanged"),
        doc=__doc__ or "",
        argv=argv,
        actions=actions,
    )


if __name__ == "__main__":
    sys.exit(main())
