r"""Decode codes or tokens to 48 kHz wav files, from a cache or files of other programs.

    python -m ray_jobs.decode_codes --config configs/decode.yaml \
        decoder=runs/train/export input=codes/ output=wavs/
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ray_jobs.decoder.evaluate_config import DecodeConfig
from ray_jobs.runtime import cli


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return cli.run(
        DecodeConfig,
        plan=cli.later("ray_jobs.decoder.decode:plan_decode"),
        describe=cli.later("ray_jobs.decoder.decode:describe"),
        execute=cli.later("ray_jobs.decoder.decode:decode"),
        foresee=cli.later("ray_jobs.decoder.decode:foresee"),
        doc=__doc__ or "",
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
