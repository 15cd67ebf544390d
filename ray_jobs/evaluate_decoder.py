r"""Measure a 48 kHz decoder against resampling, clip by clip, and write a report.

    python -m ray_jobs.evaluate_decoder --config configs/evaluate_decoder.yaml \
        decoder=runs/train data.audio=FOLDER output=runs/evaluation
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ray_jobs import cli
from ray_jobs.evaluate_config import EvaluateConfig
from ray_jobs.evaluate_worker import evaluate
from ray_jobs.evaluation_plan import describe


def execute(config: EvaluateConfig, invocation: cli.Invocation) -> None:
    """Run the evaluation; with --resume, clips that are already measured are kept."""
    evaluate(config, resume=invocation.resume, address=invocation.address)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return cli.run(EvaluateConfig, execute=execute, describe=describe, doc=__doc__ or "", argv=argv)


if __name__ == "__main__":
    sys.exit(main())
