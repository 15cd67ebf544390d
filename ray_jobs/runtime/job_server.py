"""A cluster's job server: reach it with a token, start a job once, follow it to its exit code.

Ray packs the checkout as one zip, leaving out what .gitignore, .rayignore and the runtime
environment's `excludes` name. A data set or a run that lies in it would travel to every node, so
the files are counted before anything is packed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ttt.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient


DEFAULT_ADDRESS = "http://127.0.0.1:8265"
"""Where a dashboard is, on its own machine or at the near end of a tunnel."""

LOST_EXIT = 1
"""The exit code when a job ended without one: its node was lost or it never started."""


def connect(address: str) -> JobSubmissionClient:
    """A client whose token the cluster at `address` accepts.

    Raises UserError when nothing answers, when the token is missing or wrong, when it would be
    sent in the clear, and when the cluster asks nobody for a token although RAY_AUTH_MODE says so.
    """
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    _refuse_unprotected(address)
    for module in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.ERROR)
    logging.getLogger("ray._private.runtime_env").setLevel(logging.ERROR)
    # Ray prefers RAY_ADDRESS to the argument, whatever the user typed last.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        client = JobSubmissionClient(address)
        client.list_jobs()
        if _needs_token() and requests.get(f"{address}/api/jobs/", timeout=30).status_code == 200:
            raise UserError(
                f"the cluster at {address} runs the jobs of anybody who reaches it; start it with "
                "RAY_AUTH_MODE=token, or set RAY_AUTH_MODE=disabled if nobody else can reach it"
            )
    except AuthenticationError as error:
        raise UserError(
            f"the cluster at {address} refused this process; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH to the file with the cluster's token"
        ) from error
    except (requests.RequestException, ConnectionError, RuntimeError) as error:
        raise UserError(
            f"no Ray dashboard answers at {address} ({_first_line(error)}); open the tunnel to "
            "it, or correct --address"
        ) from error
    return client


def start_once(
    client: JobSubmissionClient, name: str, entrypoint: str, *, again: bool, **arguments: Any
) -> tuple[str, JobDetails | None]:
    """Start a job unless it runs or has succeeded: its id, and what was there already (or None).

    A job that failed or was stopped is followed by NAME-2, NAME-3, ...: the server keeps the old
    ones with their logs, and takes no id twice. With `again` so is one that succeeded: a training
    that was told to stop did, too.
    """
    while True:
        job_id, found = _newest_attempt(client, name, again)
        if found is not None:
            return job_id, found
        try:
            client.submit_job(entrypoint=entrypoint, submission_id=job_id, **arguments)
        except RuntimeError as error:
            if f"{job_id} already exists" not in str(error):
                raise
            time.sleep(_RETRY_SECONDS)  # Somebody else was faster: look again.
        else:
            return job_id, None


def follow(client: JobSubmissionClient, job_id: str) -> JobDetails:
    """Print the job's log as it grows, until the job ends.

    When the connection breaks, the log is followed again where it stopped; twice after the job's
    end, and the rest of the log is left. Raises UserError when the connection stays broken or the
    cluster has forgotten the job.
    """
    import aiohttp
    import requests

    log = _Log()
    broken_since: float | None = None
    broken_after_end = 0
    while True:
        details = None
        try:
            details = client.get_job_info(job_id)
            asyncio.run(log.print_on(client, job_id))
            broken_since = None
            details = client.get_job_info(job_id)
            if details.status.is_terminal():
                return details
        except (aiohttp.ClientError, requests.RequestException, RuntimeError) as error:
            if "status code 404" in str(error):
                raise UserError(
                    f"job {job_id}: the cluster does not know it any more; its head was "
                    "restarted: submit it again, with --resume where it has a run folder"
                ) from error
            if details is not None and details.status.is_terminal():
                broken_after_end += 1
                if broken_after_end == 2:
                    print(f"[the end of the log could not be read ({_first_line(error)})]")
                    return details
            now = time.monotonic()
            if broken_since is None or log.answered:
                broken_since = now
                print(f"[the connection broke ({_first_line(error)}); trying again]", flush=True)
            elif now - broken_since > _PATIENCE_SECONDS:
                raise UserError(
                    f"job {job_id}: no connection for {_PATIENCE_SECONDS / 60:g} minutes; the job "
                    "may go on: open the tunnel and give the same command to follow it again"
                ) from error
        time.sleep(_RETRY_SECONDS)


def exit_code(details: JobDetails) -> int:
    """What the job's own process returned; 128 + n when signal n ended it, as a shell says."""
    code = details.driver_exit_code
    if code is None:
        return 0 if details.status == "SUCCEEDED" else LOST_EXIT
    return 128 - code if code < 0 else code


_RETRY_SECONDS = 2.0
_PATIENCE_SECONDS = 600.0


class _Log:
    """A job's log, of which some characters are printed already."""

    def __init__(self) -> None:
        self.printed = 0
        self.answered = False
        """Whether anything came over the newest connection."""

    async def print_on(self, client: JobSubmissionClient, job_id: str) -> None:
        """Print what is new until the job ends; the server sends the log from its start."""
        seen = 0
        self.answered = False
        async for text in client.tail_job_logs(job_id):
            print(text[max(self.printed - seen, 0) :], end="", flush=True)
            seen += len(text)
            self.answered = True
            self.printed = max(self.printed, seen)


def _newest_attempt(
    client: JobSubmissionClient, name: str, again: bool
) -> tuple[str, JobDetails | None]:
    """The id of the attempt that runs or (not `again`) succeeded, or an id that is still free."""
    jobs = {job.submission_id: job for job in client.list_jobs()}
    over = ("FAILED", "STOPPED", "SUCCEEDED") if again else ("FAILED", "STOPPED")
    job_id, attempt = name, 1
    while job_id in jobs and jobs[job_id].status in over:
        attempt += 1
        job_id = f"{name}-{attempt}"
    return job_id, jobs.get(job_id)


def _refuse_unprotected(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--address must be http(s)://host:port, got {address}")
    if _needs_token() and parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise UserError(
            f"the token would be sent in the clear to {address}; open a tunnel "
            f"(ssh -L 8265:localhost:{parts.port or 8265} {parts.hostname}) and use "
            f"{DEFAULT_ADDRESS}, or https"
        )


def _needs_token() -> bool:
    return os.environ.get("RAY_AUTH_MODE") != "disabled"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


LARGEST_MIB = 32
"""A checkout of this project is 8 MiB; Ray itself refuses more than 512."""


def files_to_upload(root: Path, excludes: Sequence[str]) -> dict[str, int]:
    """Every file that Ray would pack, relative to `root`, with its bytes."""
    # Ray's own walk: any other would differ from it in some corner of the ignore rules.
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    sizes: dict[str, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(root).as_posix()] = path.stat().st_size

    root = root.absolute()
    ignored = [_get_excludes(root, list(excludes))]
    _dir_travel(root, ignored, note, include_gitignore=True, logger=_SILENT)
    return sizes


def describe_upload(root: Path, sizes: dict[str, int]) -> str:
    """How much travels, in one line. Raises UserError when that is too much, naming what is large.

    Args:
        sizes: of `files_to_upload`.
    """
    total = sum(sizes.values())
    if total > LARGEST_MIB * 2**20:
        folders = Counter[str]()
        for name, size in sizes.items():
            folders["/".join(name.split("/")[:2])] += size
        largest = ", ".join(f"{name} ({_mib(size)})" for name, size in folders.most_common(3))
        raise UserError(
            f"{root}: {_mib(total)} would travel to every node, the limit is {LARGEST_MIB} MiB; "
            f"move the largest away or name them in cluster/runtime_env.yaml's excludes: {largest}"
        )
    return f"upload: {len(sizes)} files, {_mib(total)} (limit {LARGEST_MIB} MiB)"


_SILENT = logging.Logger("ray_jobs.runtime.job_server", logging.CRITICAL)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
