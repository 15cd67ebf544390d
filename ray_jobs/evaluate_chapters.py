r"""Moshi with and without TTT over whole chapters: loss at every position, slopes, comparison.

    python -m ray_jobs.evaluate_chapters --config configs/librilight.yaml \
        data.root=FOLDER model.ttt=FOLDER output=runs/chapters
    python -m ray_jobs.evaluate_chapters --rescore runs/chapters
    python -m ray_jobs.evaluate_chapters --compare runs/one:baseline runs/two:ttt output=runs/both

Killed at any moment and run again with --resume, it hears only what has no record yet.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.runtime import cli


def rescore(folder: str) -> None:
    """Compute everything of a run again from its records."""
    from ray_jobs.moshi.chapters.run import JOB
    from ray_jobs.moshi.evaluation import write_results

    write_results(JOB, Path(folder))
    print(f"report: {folder}/report.html")


def compare(first: str, second: str, output: str | None) -> None:
    """Print and write the paired comparison of a model of one run with a model of another."""
    from ray_jobs.moshi.compare import compare_chapters, publish

    publish(compare_chapters(first, second), output)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    actions = [
        cli.Action("--rescore", ("RUN",), "recompute a run from its records and stop", rescore),
        cli.Action(
            "--compare",
            ("RUN", "RUN"),
            "compare RUN[:MODEL] with another; output=FOLDER for its page",
            compare,
            takes_output=True,
        ),
    ]
    return cli.run(
        EvaluateChaptersConfig,
        plan=cli.later("ray_jobs.moshi.chapters.plan:make_plan"),
        describe=cli.later("ray_jobs.moshi.chapters.plan:describe"),
        execute=cli.later("ray_jobs.moshi.chapters.run:evaluate"),
        foresee=cli.later("ray_jobs.runtime.run_folder:foresee_unchanged"),
        doc=__doc__ or "",
        argv=argv,
        actions=actions,
    )


if __name__ == "__main__":
    sys.exit(main())
