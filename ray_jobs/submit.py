r"""Run a job on a cluster: checked here, sent once, its log followed, its exit code returned.

    python -m ray_jobs.submit train_decoder --config configs/train_default.yaml \
        data.train=/shared/cache run=/shared/runs/voice

The words after the job are those of the job itself. The same words find the same job again: while
it runs its log is followed, once it has succeeded nothing is sent. After a failure they start a
new attempt; add --resume where it goes on with a run folder, also after a training that was told
to stop, which counts as a success. Ctrl-C leaves the job running.

The cluster's dashboard is reached through a tunnel, with RAY_AUTH_TOKEN_PATH naming the file with
its token. Run it from the checkout: these files travel with the job.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ray_jobs.config.schema import JOB_CONFIGS
from ray_jobs.runtime.cli import USER_ERROR_EXIT
from ray_jobs.runtime.submission import submit
from ttt.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the job's exit code, or 2 when it was never sent."""
    arguments = _parser().parse_intermixed_args(argv)
    try:
        return submit(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_EXIT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ray_jobs.submit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("job", choices=list(JOB_CONFIGS), metavar="JOB", help=", ".join(JOB_CONFIGS))
    add("overrides", nargs="*", metavar="key.path=value", help="replaces a value of the file")
    add("--config", metavar="FILE", help="the job's configuration, such as configs/*.yaml")
    add("--resume", action="store_true", help="go on with the run in the run folder")
    add("--dry-run", action="store_true", help="check, print what would be sent and stop")
    add("--no-wait", action="store_true", help="leave once the job is started")
    add("--id", metavar="NAME", help="the job's name (default: its kind and its values' digest)")
    add("--address", metavar="URL", help="the dashboard (default: RAY_ADDRESS or the tunnel's)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
