r"""A checkpoint of the original TTT code for Moshi, as layers that the evaluations take.

    python -m ray_jobs.import_ttt input=CHECKPOINT output=FOLDER weights=kyutai/moshiko-pytorch-bf16
    python -m ray_jobs.evaluate_chapters --config configs/librilight.yaml \
        data.root=FOLDER model.ttt=FOLDER output=runs/chapters

It prints what was mapped and dropped, what was decided, and why the numbers will be others.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ray_jobs.moshi.import_config import ImportTTTConfig
from ray_jobs.runtime import cli


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return cli.run(
        ImportTTTConfig,
        plan=cli.later("ray_jobs.moshi.import_ttt:make_plan"),
        describe=cli.later("ray_jobs.moshi.import_ttt:describe"),
        execute=cli.later("ray_jobs.moshi.import_ttt:execute"),
        foresee=cli.later("ray_jobs.runtime.run_folder:foresee"),
        doc=__doc__ or "",
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
