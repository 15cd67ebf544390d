r"""Push a 48 kHz decoder to the Hugging Face hub, from where others load it by name.

    export HF_TOKEN=...   # one with write access, or: hf auth login
    python -m ray_jobs.push_decoder decoder=runs/train repo=USER/NAME license=apache-2.0

The card has the numbers that ray_jobs.evaluate_decoder has measured. --dry-run asks the hub whether
it would take it, and prints what would be sent.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ray_jobs.decoder.push_config import PushConfig
from ray_jobs.runtime import cli


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return cli.run(
        PushConfig,
        plan=cli.later("ray_jobs.decoder.push:plan_push"),
        describe=cli.later("ray_jobs.decoder.push:describe"),
        execute=cli.later("ray_jobs.decoder.push:execute"),
        doc=__doc__ or "",
        argv=argv,
        goes_on="the same command",
    )


if __name__ == "__main__":
    sys.exit(main())
