"""The command line every job shares: `python -m ray_jobs.<job> --config FILE key.path=value ...`.

A job's module calls `run` with its configuration class and two functions: `describe` validates
and returns the plan, `execute` does the work. A mistake that the user can mend ends as one line
on stderr and exit code 2, also when it was raised in a Ray worker; a bug keeps its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

from ray_jobs import run_folder
from ray_jobs.config import dump_yaml, load_config
from ttt.config import Config
from ttt.errors import UserError

C = TypeVar("C", bound=Config)

USER_ERROR_EXIT = 2
INTERRUPTED_EXIT = 130
TERMINATED_EXIT = 143


@dataclass(frozen=True)
class Invocation:
    """What the command line says beside the configuration."""

    resume: bool
    """Go on with the run that is in the run folder."""
    address: str | None
    """The Ray cluster to connect to; None for RAY_ADDRESS or else a local Ray."""
    config_path: str
    """The configuration file as the user wrote it; empty when none was given."""


@dataclass(frozen=True)
class Action:
    """An option that does something else in place of the job and needs no configuration."""

    flag: str
    """The option, such as `--verify`."""
    metavars: tuple[str, ...]
    """What its values are called in the help, such as `DIR`; there are as many values."""
    help: str
    execute: Callable[..., None]
    """Called with the values; raises UserError when what it looks for is wrong."""
    takes_output: bool = False
    """Whether output=FOLDER may follow; `execute` gets the folder, or None, as `output`."""


def run(
    config_class: type[C],
    *,
    execute: Callable[[C, Invocation], None],
    describe: Callable[[C], str],
    doc: str,
    argv: Sequence[str] | None = None,
    actions: Sequence[Action] = (),
) -> int:
    """Run a job from its command line and return the exit code.

    `describe` does all validation that needs no resources and returns the plan, which
    `--dry-run` prints and a real run prints before it starts. Without `argv`, sys.argv is read.
    """
    arguments = _parser(doc, actions).parse_intermixed_args(argv)
    try:
        with _sigterm_unwinds():
            _dispatch(arguments, config_class, execute, describe, actions)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT
    except Exception as error:
        mendable = find_user_error(error)
        if mendable is None:
            raise
        print(f"error: {_sentence(mendable)}", file=sys.stderr)
        return USER_ERROR_EXIT
    return 0


def find_user_error(error: BaseException) -> UserError | None:
    """The UserError that `error` is or wraps, however deep Ray has packed it.

    Ray raises a task's exception as a subclass of both RayTaskError and the exception's own
    class, with the original as `cause` and a traceback as text, so what it wraps is looked at
    before the exception itself.
    """
    return _find_user_error(error, seen=set())


def _find_user_error(error: BaseException, seen: set[int]) -> UserError | None:
    if id(error) in seen:
        return None
    seen.add(id(error))
    for inner in _wrapped(error):
        found = _find_user_error(inner, seen)
        if found is not None:
            return found
    return error if isinstance(error, UserError) else None


def _wrapped(error: BaseException) -> Iterator[BaseException]:
    # ray.exceptions.RayTaskError.cause; ray.train's ControllerError.controller_failure,
    # WorkerHealthCheckFailedError.health_check_failure, WorkerGroupError.worker_failures (by
    # rank) and UserExceptionWithTraceback._base_exc.
    candidates = [
        getattr(error, name, None)
        for name in ("cause", "controller_failure", "health_check_failure", "_base_exc")
    ]
    failures = getattr(error, "worker_failures", None)
    if isinstance(failures, dict):
        candidates += [failures[rank] for rank in sorted(failures)]
    if isinstance(error, BaseExceptionGroup):
        candidates += error.exceptions
    if not isinstance(error, UserError):
        candidates.append(error.__cause__)
    yield from (inner for inner in candidates if isinstance(inner, BaseException))


def _sentence(error: UserError) -> str:
    # Ray Data appends advice about retries to the message of whatever a task of it raises.
    return str(error).partition("\nFailed to ")[0]


def _dispatch(
    arguments: argparse.Namespace,
    config_class: type[C],
    execute: Callable[[C, Invocation], None],
    describe: Callable[[C], str],
    actions: Sequence[Action],
) -> None:
    for action in actions:
        values = getattr(arguments, _destination(action))
        if values is not None:
            action.execute(*values, **_beside(action, arguments.overrides))
            return
    config = load_config(config_class, arguments.config, arguments.overrides)
    if arguments.print_config:
        print(dump_yaml(config), end="")
        return
    print(describe(config), flush=True)
    if not arguments.dry_run:
        resume = arguments.resume or (arguments.resume_if_begun and run_folder.begun(config))
        execute(config, Invocation(resume, arguments.address, arguments.config or ""))


def _beside(action: Action, overrides: Sequence[str]) -> dict[str, str | None]:
    """What an action is told beside its values: nothing, or where to write."""
    output = None
    for override in overrides:
        key, equals, value = override.partition("=")
        if not action.takes_output or key != "output" or not equals or not value:
            taken = "output=FOLDER" if action.takes_output else "nothing"
            raise UserError(f"{action.flag} takes {taken} beside its values, not {override}")
        output = value
    return {"output": output} if action.takes_output else {}


def _parser(doc: str, actions: Sequence[Action]) -> argparse.ArgumentParser:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    parser = argparse.ArgumentParser(
        prog=f"python -m {spec.name}" if spec is not None else None,
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("overrides", nargs="*", metavar="key.path=value", help="replaces a value of the file")
    add("--config", metavar="FILE", help="the configuration, such as configs/*.yaml")
    add("--print-config", action="store_true", help="print the whole configuration and stop")
    add("--dry-run", action="store_true", help="validate, print the plan and stop")
    add("--resume", action="store_true", help="go on with the run in the run folder")
    add(
        "--resume-if-begun",
        action="store_true",
        help="start, or --resume where the run folder holds anything: for whatever tries again",
    )
    add("--address", help="a running Ray cluster (default: RAY_ADDRESS, else a local Ray)")
    for action in actions:
        add(
            action.flag,
            nargs=len(action.metavars),
            metavar=action.metavars,
            help=action.help,
            dest=_destination(action),
        )
    return parser


def _destination(action: Action) -> str:
    return "action_" + action.flag.lstrip("-").replace("-", "_")


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that files are closed and a local Ray is shut down."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    terminated = threading.Event()

    def leave(_signum: int, _frame: FrameType | None) -> None:
        terminated.set()
        raise SystemExit(TERMINATED_EXIT)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit as error:
        if terminated.is_set():  # Inside a call of Ray, the code has become 1.
            raise SystemExit(TERMINATED_EXIT) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
