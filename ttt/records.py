"""Records on disk, and where a number comes from.

`write_json` replaces a whole file, `append_jsonl` adds one line, `provenance` says which code,
configuration, versions and machine made a result; every summary carries it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ttt import storage
from ttt.config import Config
from ttt.errors import UserError

COMMIT_VARIABLE = "TTT_GIT_COMMIT"
"""The environment variable that names the commit where the code runs without its repository."""

_PACKAGES = ("torch", "torchaudio", "snac", "moshi", "ray", "pyarrow", "numpy")


def write_json(uri: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN and infinity become null."""
    text = json.dumps(finite(value), indent=2, allow_nan=False)
    storage.write_bytes(uri, (text + "\n").encode())


def read_json(uri: str | Path) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(storage.read_bytes(uri))


def append_jsonl(path: Path, value: dict[str, Any]) -> None:
    """Append one line to a local .jsonl file in one write; NaN and infinity become null.

    Raises UserError, and adds nothing, when the disk is full.
    """
    line = json.dumps(finite(value), allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    size = path.stat().st_size if path.exists() else 0
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.truncate(path, size)  # The part that fitted would make the file unreadable.
        raise UserError(f"{path}: could not be written ({error.strerror}); free space") from error


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a .jsonl file in order."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def finite(value: Any) -> Any:
    """`value` with every float that JSON cannot hold replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def provenance(config: Config) -> dict[str, Any]:
    """What made a result: time, git commit, versions, machine, configuration and its digest."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": f"{platform.system()} {platform.machine()}",
        "config_digest": config.digest(),
        "config": config.to_dict(),
    }


@functools.cache
def git_commit() -> str | None:
    """The commit of this checkout, with `-dirty` when files differ.

    Outside a checkout what TTT_GIT_COMMIT says, as submitted jobs and images do, or None.
    """
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(COMMIT_VARIABLE) or None


@functools.cache
def _versions() -> dict[str, str]:
    installed = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed
