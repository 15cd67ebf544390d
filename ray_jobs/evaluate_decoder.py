r"""Measure a 48 kHz decoder against resampling, clip by clip, and write a report.

Several are also compared with each other, paired by clip; two by ear, too.

    python -m ray_jobs.evaluate_decoder --config configs/evaluate_decoder.yaml \
        decoder=runs/train data.audio=FOLDER output=runs/evaluation
    python -m ray_jobs.evaluate_decoder --config configs/evaluate_decoder.yaml \
        decoder=[runs/one,runs/two] data.audio=FOLDER output=runs/compared
    python -m ray_jobs.evaluate_decoder --score ANNA.json BEN.json output=runs/compared
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ray_jobs.decoder.evaluate_config import EvaluateConfig
from ray_jobs.runtime import cli


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    score = cli.Action(
        "--score",
        ("FILE",),
        "say what answers to listening.html prefer, and stop; output=FOLDER is its evaluation",
        cli.later("ray_jobs.decoder.evaluate.ears:score_answers"),
        takes_output=True,
        many=True,
        takes_dry_run=True,
    )
    return cli.run(
        EvaluateConfig,
        plan=cli.later("ray_jobs.decoder.evaluate.several:plan"),
        describe=cli.later("ray_jobs.decoder.evaluate.several:describe"),
        execute=cli.later("ray_jobs.decoder.evaluate.compare:evaluate"),
        foresee=cli.later("ray_jobs.runtime.run_folder:foresee_unchanged"),
        doc=__doc__ or "",
        argv=argv,
        actions=[score],
    )


if __name__ == "__main__":
    sys.exit(main())
