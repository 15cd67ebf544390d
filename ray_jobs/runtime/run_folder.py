"""A run's folder belongs to one process at a time, and to one run: what goes on is what began."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_jobs.config.load import dump_yaml, load_config
from ttt import records, storage
from ttt.config import Config, differences
from ttt.errors import UserError

KEYS = ("run", "output")
"""What configurations call the folder that their job writes to; each has one of them."""


@contextmanager
def claim(run: str, config: Config, *, resume: bool) -> Iterator[Callable[[], None]]:
    """Hold the run folder inside the block, and give it what begins the run there.

    What is given writes config.yaml and provenance.json, which say what runs in the folder: it is
    called when nothing more can refuse the run, so that a refused --resume changes nothing. Raises
    UserError when the folder has content and `resume` is off, when it is not there and `resume` is
    on, and when another process holds it. The lock is the operating system's, so a killed process
    leaves none behind; on an object store there is none.
    """
    before = _require_startable(run, resume=resume)

    def begin() -> None:
        storage.write_bytes(storage.join(run, _WRITTEN[0]), dump_yaml(config).encode())
        records.write_json(storage.join(run, _WRITTEN[1]), records.provenance(config))

    with locked(run):
        try:
            yield begin
        except BaseException:
            if not before and set(content(run)) <= set(_WRITTEN):
                # Nothing was done yet: the next start need not be a --resume.
                for name in _WRITTEN:
                    storage.delete(storage.join(run, name))
            raise


def foresee(_plan: object, config: Config, resume: bool) -> None:
    """Raise the UserError that `claim` would raise for the content of the job's folder."""
    (run,) = _places(config)
    _require_startable(run, resume=resume)


def foresee_unchanged(plan: object, config: Config, resume: bool) -> None:
    """Raise the UserError of `refuse_changed_config` where the run goes on, or else of `claim`."""
    if resume:
        (output,) = _places(config)
        refuse_changed_config(config, storage.local_path(output).absolute())
    foresee(plan, config, resume)


def _require_startable(run: str, *, resume: bool) -> list[str]:
    """The folder's content. Raises UserError where a run cannot begin there, or not go on."""
    before = content(run)
    if before and not resume:
        raise UserError(
            f"{run}: not empty ({', '.join(before[:3])}); continue that run with --resume or "
            f"choose another run folder"
        )
    if not before and resume:
        raise UserError(f"{run}: nothing to resume; start the run without --resume")
    return before


@contextmanager
def locked(run: str) -> Iterator[None]:
    """Hold a folder inside the block and nothing else; how, and what is raised, is `claim`'s."""
    if not storage.is_local(run):
        yield
        return
    folder = storage.local_path(run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UserError(
                f"{folder}: in use by {owner}; wait for it or choose another folder"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def begun(config: Config) -> bool:
    """Whether the folder that the job writes to holds anything yet, or the file is there."""
    places = _places(config)
    return any(storage.file_bytes(each) is not None or content(each) for each in places)


def _places(config: Config) -> list[str]:
    """Where the job writes to, as its configuration has it."""
    return [getattr(config, key) for key in KEYS if hasattr(config, key)]


def content(run: str) -> list[str]:
    """Names in the folder but for the lock and what a killed process has half written."""
    names = storage.list_names(run)
    return [name for name in names if name != _LOCK and not storage.is_temporary(name)]


_LOCK = ".lock"
_WRITTEN = ("config.yaml", "provenance.json")


def refuse_changed_config(config: Config, output: Path) -> None:
    """Raise UserError where a key differs from OUTPUT/config.yaml, if that exists.

    Keys that the class names in `__free_on_resume__` may change, as no record depends on them.
    """
    free = config.__free_on_resume__
    path = output / "config.yaml"
    if not path.exists():
        return
    before, after = load_config(type(config), path).to_dict(), config.to_dict()
    changed = [
        (key, old, new)
        for key, old, new in differences(before, after)
        if not any(key == each or key.startswith(f"{each}.") for each in free)
    ]
    if changed:
        told = "; ".join(f"{key}={old!r}, and now it is {new!r}" for key, old, new in changed)
        back = "it" if len(changed) == 1 else "them"
        raise UserError(
            f"{output}: this run was made with {told}; choose another output for a new run, or set "
            f"{back} back"
        )


def refuse_changed_run(
    before: dict[str, Any], after: dict[str, Any], names: Collection[str], output: Path
) -> None:
    """Raise UserError where one of the named parts of two descriptions of the run differs.

    Weights or recordings may have changed behind an unchanged configuration.
    """
    for name in names:
        for key, was, now in differences(_by_place(before[name]), _by_place(after[name]), name):
            raise UserError(
                f"{output}: since this run began {key} has changed from {was!r} to {now!r}; choose "
                "another output for a new run, or bring it back"
            )


def _by_place(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return {str(place): _by_place(item) for place, item in enumerate(value)}
    if isinstance(value, dict):
        return {key: _by_place(item) for key, item in value.items()}
    return value
