"""`python -m ray_jobs.cache_codes`: audio to a cache of full-length codes and 48 kHz targets.

Every input ends in a shard or in manifest.jsonl with its reason. Killed at any moment and run
again with the same configuration, the job encodes only the shards that are missing and ends
with the same bytes.

    python -m ray_jobs.cache_codes --config configs/cache_folder.yaml input.audio=DIR output=DIR
    python -m ray_jobs.cache_codes --verify DIR
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ray_jobs.decoder.cache_config import CacheConfig
from ray_jobs.runtime.cli import Action, later, run


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    check = Action(
        "--verify",
        ("DIR",),
        "check an existing cache and stop",
        later("ray_jobs.decoder.cache.run:verify"),
    )
    return run(
        CacheConfig,
        plan=later("ray_jobs.decoder.cache.plan:make_plan"),
        describe=later("ray_jobs.decoder.cache.words:describe"),
        execute=later("ray_jobs.decoder.cache.run:execute"),
        doc=__doc__ or "",
        argv=argv,
        actions=[check],
        goes_on="the same command",
    )


if __name__ == "__main__":
    sys.exit(main())
