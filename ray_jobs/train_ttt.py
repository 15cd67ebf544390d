"""`python -m ray_jobs.train_ttt`: train TTT layers, or LoRA, in a Moshi that never changes.

    python -m ray_jobs.train_ttt --config configs/train_ttt.yaml data.cache=CACHE run=DIR
    python -m ray_jobs.train_ttt --config configs/train_ttt.yaml ... --resume
    python -m ray_jobs.train_ttt --report DIR
    python -m ray_jobs.train_ttt --compare DIR CONTROL output=FOLDER

Windows of cached chapters grow from seconds to whole chapters. SIGTERM saves and ends with exit
code 0; --resume continues from the newest complete checkpoint, bit for bit. At the end the best of
what was trained lies in DIR/export, which evaluate_chapters and evaluate_pairs take as model.ttt,
and DIR/report.html says what it has reached against the base model. --report writes that page of a
run as it stands; --compare sets two finished runs beside each other, span by span.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ray_jobs.moshi.train.config import TrainTTTConfig
from ray_jobs.runtime.cli import Action, later, run


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    actions = [
        Action(
            "--report",
            ("RUN",),
            "write the report of a run as it stands",
            later("ray_jobs.moshi.train.report:write_report"),
        ),
        Action(
            "--compare",
            ("RUN", "CONTROL"),
            "compare a finished run with its control; output=FOLDER for the page",
            later("ray_jobs.moshi.train.report:write_comparison"),
            takes_output=True,
        ),
    ]
    return run(
        TrainTTTConfig,
        plan=later("ray_jobs.moshi.train.plan:make_plan"),
        describe=later("ray_jobs.moshi.train.words:describe"),
        execute=later("ray_jobs.moshi.train.job:train"),
        foresee=later("ray_jobs.moshi.train.job:foresee"),
        doc=__doc__ or "",
        argv=argv,
        actions=actions,
    )


if __name__ == "__main__":
    sys.exit(main())
