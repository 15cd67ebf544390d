"""`python -m ray_jobs.cache_chapters`: recorded chapters to a cache of Mimi's codes, or made ones.

Every chapter ends in a shard or in manifest.jsonl with its reason. Killed at any moment and run
again with the same configuration, the job encodes only the shards that are missing and ends with
the same bytes. `evaluate_chapters data.cache=DIR` reads what it wrote in place of audio.

    python -m ray_jobs.cache_chapters --config configs/cache_chapters.yaml data.root=DIR output=DIR
    python -m ray_jobs.cache_chapters --verify DIR
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ray_jobs.moshi.cache.config import CacheChaptersConfig
from ray_jobs.runtime.cli import Action, later, run


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    check = Action(
        "--verify",
        ("DIR",),
        "check an existing cache and stop",
        later("ray_jobs.moshi.cache.check:verify"),
    )
    return run(
        CacheChaptersConfig,
        plan=later("ray_jobs.moshi.cache.plan:make_plan"),
        describe=later("ray_jobs.moshi.cache.plan:describe"),
        execute=later("ray_jobs.moshi.cache.run:execute"),
        doc=__doc__ or "",
        argv=argv,
        actions=[check],
        goes_on="the same command",
    )


if __name__ == "__main__":
    sys.exit(main())
