"""`python -m ray_jobs.train_decoder`: train the 48 kHz decoder on cached codes.

    python -m ray_jobs.train_decoder --config configs/train_default.yaml data.train=CACHE run=DIR
    python -m ray_jobs.train_decoder --config configs/train_default.yaml ... --resume

Two phases, segments that grow by stages, checkpoints that survive any kill. SIGTERM saves and
ends with exit code 0; --resume continues from the newest complete checkpoint, bit for bit. At the
end the best decoder lies in DIR/export.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ray_jobs.decoder.train_config import TrainConfig
from ray_jobs.runtime.cli import later, run


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(
        TrainConfig,
        plan=later("ray_jobs.decoder.train.plan:make_plan"),
        describe=later("ray_jobs.decoder.train.words:describe"),
        execute=later("ray_jobs.decoder.train.job:train"),
        foresee=later("ray_jobs.decoder.train.job:foresee"),
        doc=__doc__ or "",
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
