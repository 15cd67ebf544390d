"""Starting a local Ray and connecting to a cluster; whatever fails is one sentence.

Ray reports what went wrong by errors of any type, often with a traceback or a log inside the text,
so every one of them is caught here, where nothing but Ray runs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator

from ttt.errors import UserError
from ttt.files.errors import cause


def start_local(cpus: int | None, *, dashboard: bool) -> None:
    """Start a Ray of this process with so many CPUs (None: all). Raises UserError."""
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=dashboard,
            logging_level=logging.WARNING,
        )
    except Exception as error:
        raise UserError(_not_started(error)) from error


def connect(address: str) -> None:
    """Connect to the cluster at host:port, ray://host:port or `auto` (one of this machine).

    Raises UserError when there is none, when it refuses this process, or is another Ray.
    """
    import ray
    import ray.exceptions

    is_open = False
    try:
        # ray.init itself would try for minutes; and for `auto` it asks for a token before it has
        # seen whether anything runs.
        place = _recorded_address() if address == "auto" else address
        if "://" not in place:
            _try_port(place)
            is_open = True
        with _few_tries():
            ray.init(address=place, logging_level=logging.WARNING)
    except ray.exceptions.AuthenticationError as error:
        raise UserError(_refused(address)) from error
    except Exception as error:
        if "Version mismatch" in str(error):
            raise UserError(
                f"the Ray cluster at {address} has other versions ({_one_line(error)}); install "
                "the same Ray and Python here and there"
            ) from error
        # A wrong token arrives as a ConnectionError, with Ray's reason in its log alone.
        if is_open:
            raise UserError(f"{_refused(address)}, unless what listens is no Ray") from error
        raise UserError(
            f"no Ray cluster answers at {address} ({_one_line(error)}); start it, correct "
            "--address or RAY_ADDRESS (host:port), or unset both for a local Ray"
        ) from error


def _recorded_address() -> str:
    from ray._private import services

    try:
        found = services.canonicalize_bootstrap_address("auto")
    except ConnectionError as error:
        raise ValueError("no Ray runs on this machine") from error
    assert found is not None  # None is what other words than `auto` give.
    return found


def _try_port(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("it is not of the form host:port")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextlib.contextmanager
def _few_tries() -> Iterator[None]:
    """Let ray.init give up what listens and does not answer after two tries of 40 s, not twenty."""
    if _TRIES in os.environ:
        yield
        return
    os.environ[_TRIES] = "2"
    try:
        yield
    finally:
        del os.environ[_TRIES]


_TRIES = "RAY_gcs_server_port_wait_time_s"
"""Of Ray: seconds to wait for a head's port, and tries to connect to one."""


def _refused(address: str) -> str:
    return (
        f"the Ray cluster at {address} refused this process; set RAY_AUTH_MODE to the cluster's "
        "mode and RAY_AUTH_TOKEN_PATH to the file with its token"
    )


def _not_started(error: Exception) -> str:
    text = str(error)
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if "AF_UNIX path length" in text:
        return (
            f"a local Ray cannot start: the path of {folder}, where its sockets would lie, is "
            "too long; set RAY_TMPDIR to a shorter folder, such as /tmp"
        )
    if re.search(r"timed out|Timed out|Failed to (start|connect to) GCS", text):
        return (
            "a local Ray did not start within its own limit of 30 s: this machine is busy or short "
            "of memory; run less beside it, or set RAY_ADDRESS to a cluster that runs already "
            f"(its logs: {folder}/ray/session_latest/logs)"
        )
    return (
        f"a local Ray cannot start ({_one_line(error)}); its files lie below {folder}/ray, and "
        "RAY_TMPDIR names another place"
    )


def _one_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", cause(error)).strip(" .")
