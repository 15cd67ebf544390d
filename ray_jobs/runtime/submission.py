"""A job sent to a cluster: checked here, uploaded once, followed to its exit code."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from ray_jobs.config import yaml_tree
from ray_jobs.config.load import load_config
from ray_jobs.config.schema import config_class
from ray_jobs.runtime import job_server, run_folder
from ray_jobs.runtime.cli import INTERRUPTED_EXIT
from ray_jobs.runtime.job_server import describe_upload, files_to_upload
from ttt import records, storage
from ttt.config import Config
from ttt.errors import UserError

RUNTIME_ENV = "cluster/runtime_env.yaml"


def submit(arguments: argparse.Namespace) -> int:
    """Send what the command line says; returns the job's exit code. Raises UserError."""
    root = Path.cwd()
    if not (root / RUNTIME_ENV).is_file():
        raise UserError(f"{root}: no {RUNTIME_ENV} here; run this from the project's checkout")
    # Read here as the job will read it, so that a misspelt key costs no upload.
    config = load_config(config_class(arguments.job), arguments.config, arguments.overrides)
    _require_shared_output(config)
    runtime_env = _runtime_env(root)
    sizes = files_to_upload(root, runtime_env["excludes"])
    entrypoint = _entrypoint(arguments, root, sizes)
    name = arguments.id or f"{arguments.job}-{config.digest()}"
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"--id takes letters, digits and . _ -, got {name}")
    print(describe_upload(root, sizes))
    print(f"command: {entrypoint}", flush=True)
    if arguments.dry_run:
        print(f"job {name}: not sent (--dry-run)")
        return 0
    address = (arguments.address or _address()).rstrip("/")
    client = job_server.connect(address)
    job_id, found = job_server.start_once(
        client,
        name,
        entrypoint,
        again=arguments.resume,
        runtime_env=runtime_env,
        metadata={"job": arguments.job, "config_digest": config.digest()},
    )
    if found is not None and found.status == "SUCCEEDED":
        print(f"job {job_id}: has succeeded already; --id with another name runs it again")
        return 0
    print(f"job {job_id}: {'started' if found is None else 'runs already'}", flush=True)
    if arguments.no_wait:
        return 0
    try:
        details = job_server.follow(client, job_id)
    except KeyboardInterrupt:
        print(
            f"\njob {job_id} goes on; the same command follows it again, "
            f"'ray job stop --address {address} {job_id}' ends it",
            file=sys.stderr,
        )
        return INTERRUPTED_EXIT
    code = job_server.exit_code(details)
    print(f"job {job_id}: {details.status.value.lower()}, exit code {code}", flush=True)
    if details.driver_exit_code is None and code:
        print(f"it ended without one of its own: {details.message}", file=sys.stderr)
    return code


def _require_shared_output(config: Config) -> None:
    for name in run_folder.KEYS:
        path = getattr(config, name, "/")
        if storage.is_local(path) and not path.startswith(("/", "~", "file://")):
            raise UserError(
                f"{name}={path}: would lie in the copy of these files that Ray makes and deletes; "
                "give an absolute path that all nodes share, or a URI"
            )


def _entrypoint(arguments: argparse.Namespace, root: Path, sizes: dict[str, int]) -> str:
    """The command of the job, each word quoted: the cluster's shell sees no operators in it."""
    words = ["python", "-m", f"ray_jobs.{arguments.job}"]
    if arguments.config is not None:
        path = Path(os.path.relpath(arguments.config, root)).as_posix()
        if path not in sizes:
            raise UserError(
                f"{arguments.config}: does not travel with the job; put it under {root / 'configs'}"
            )
        words += ["--config", path]
    if arguments.resume:
        words.append("--resume")
    return shlex.join([*words, *arguments.overrides])


def _runtime_env(root: Path) -> dict[str, Any]:
    """The shipped runtime environment, with this checkout as the working directory."""
    runtime_env = yaml_tree.read(root / RUNTIME_ENV)
    runtime_env["working_dir"] = str(root)
    runtime_env["env_vars"] = {
        **runtime_env["env_vars"],
        "RAY_AUTH_MODE": os.environ["RAY_AUTH_MODE"],
        # .git stays here, and results name the commit they were made with.
        records.COMMIT_VARIABLE: records.git_commit() or "",
    }
    return runtime_env


def _address() -> str:
    named = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS", "")
    return named if named.startswith("http") else job_server.DEFAULT_ADDRESS
