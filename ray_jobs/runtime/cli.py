"""The command line every job shares: `python -m ray_jobs.<job> --config FILE key.path=value ...`.

A job's module calls `run` with its configuration class and three functions: `plan` validates and
finds all that can be known before resources are taken, `describe` says it in words, `execute` does
it. The plan is made once. They are named by `later`, so that reading a configuration imports
nothing that only the job needs. A mistake that the user can mend ends as one line on stderr and
exit code 2, also when it was raised in a Ray worker, and so does a full disk; a bug keeps its
traceback.
Ctrl-C is a SIGTERM, a second one ends at once.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

from ray_jobs.config.load import dump_yaml, load_config
from ray_jobs.runtime import run_folder
from ttt.config import Config
from ttt.errors import UserError
from ttt.extras import needed_for

C = TypeVar("C", bound=Config)
P = TypeVar("P")

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
    many: bool = False
    """Whether there may be any number of values, at least one; `metavars` then has one name."""
    takes_dry_run: bool = False
    """Whether `execute` is told of --dry-run, as `dry_run`; without this it is refused."""


def run(
    config_class: type[C],
    *,
    plan: Callable[[C], P],
    describe: Callable[[P], str],
    execute: Callable[[P, Invocation], None],
    doc: str,
    argv: Sequence[str] | None = None,
    actions: Sequence[Action] = (),
    goes_on: str = "--resume",
    foresee: Callable[[P, C, bool], None] | None = None,
) -> int:
    """Run a job from its command line and return the exit code.

    `plan` does all validation that needs no resources; `--dry-run` prints its description, and a
    real run does so before it starts. `foresee` refuses in a dry run what a real run would refuse
    later; it is given the plan, the configuration and whether --resume holds. `goes_on` is what a
    job that was stopped goes on with. Without `argv`, sys.argv is read.
    """
    arguments = _parser(doc, actions).parse_intermixed_args(argv)
    stopped = f"stopped; {goes_on} goes on from here"
    try:
        with needed_for("this job"), unwinding_signals(stopped):
            _dispatch(arguments, config_class, plan, describe, execute, actions, foresee)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT
    except Exception as error:
        mendable = find_user_error(error) or _full_disk(error, goes_on)
        if mendable is None:
            raise
        print(f"error: {_sentence(mendable)}", file=sys.stderr)
        return USER_ERROR_EXIT
    return 0


def later(name: str) -> Callable[..., Any]:
    """The function `package.module:function`, whose module is imported when it is first called."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        return pkgutil.resolve_name(name)(*arguments, **keywords)

    return call


def find_user_error(error: BaseException) -> UserError | None:
    """The UserError that `error` is or wraps, however deep Ray has packed it.

    Ray raises a task's exception as a subclass of both RayTaskError and the exception's own
    class, with the original as `cause` and a traceback as text, so what it wraps is looked at
    before the exception itself.
    """
    return next((each for each in _inside(error, set()) if isinstance(each, UserError)), None)


def _full_disk(error: BaseException, goes_on: str) -> UserError | None:
    """The sentence on a disk that is full, where `error` is or wraps that."""
    for each in _inside(error, set()):
        if isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT):
            name = each.filename or "a file"
            return UserError(
                f"{name}: could not be written ({os.strerror(each.errno)}); make room, then "
                f"{goes_on} goes on from here"
            )
    return None


def _inside(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    """What `error` wraps, however deep, the innermost first; then itself."""
    if id(error) in seen:
        return
    seen.add(id(error))
    for inner in _wrapped(error):
        yield from _inside(inner, seen)
    yield error


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
    plan: Callable[[C], P],
    describe: Callable[[P], str],
    execute: Callable[[P, Invocation], None],
    actions: Sequence[Action],
    foresee: Callable[[P, C, bool], None] | None,
) -> None:
    for action in actions:
        values = getattr(arguments, _destination(action))
        if values is not None:
            words = [value for value in values if action.many and value.startswith("output=")]
            values = [value for value in values if value not in words]
            beside = _beside(action, [*arguments.overrides, *words], arguments.dry_run)
            action.execute(*values, **beside)
            return
    config = load_config(config_class, arguments.config, arguments.overrides, _note)
    if arguments.print_config:
        print(dump_yaml(config), end="")
        return
    planned = plan(config)
    print(describe(planned), flush=True)
    resume = arguments.resume or (arguments.resume_if_begun and run_folder.begun(config))
    if arguments.dry_run:
        if foresee is not None:
            foresee(planned, config, resume)
    else:
        execute(planned, Invocation(resume, arguments.address, arguments.config or ""))


def _note(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr)


def _beside(action: Action, overrides: Sequence[str], dry_run: bool) -> dict[str, Any]:
    """What an action is told beside its values: nothing, where to write, or not to."""
    if dry_run and not action.takes_dry_run:
        raise UserError(f"{action.flag} cannot be tried with --dry-run; leave --dry-run out")
    output = None
    for override in overrides:
        key, equals, value = override.partition("=")
        if not action.takes_output or key != "output" or not equals or not value:
            taken = "output=FOLDER" if action.takes_output else "nothing"
            raise UserError(f"{action.flag} takes {taken} beside its values, not {override}")
        output = value
    told: dict[str, Any] = {"output": output} if action.takes_output else {}
    return {**told, "dry_run": dry_run} if action.takes_dry_run else told


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
            nargs="+" if action.many else len(action.metavars),
            metavar=action.metavars[0] if action.many else action.metavars,
            help=action.help,
            dest=_destination(action),
        )
    return parser


def _destination(action: Action) -> str:
    return "action_" + action.flag.lstrip("-").replace("-", "_")


@contextlib.contextmanager
def unwinding_signals(stopped: str) -> Iterator[None]:
    """Turn SIGTERM and the first Ctrl-C into SystemExit, so that files are closed and a local Ray
    is shut down; say `stopped` then. A job may handle SIGTERM itself, and so Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    code: int | None = None

    def leave(_number: int, _frame: FrameType | None) -> None:
        nonlocal code
        code = code or TERMINATED_EXIT
        raise SystemExit(code)

    def interrupted(_number: int, frame: FrameType | None) -> None:
        nonlocal code
        code = INTERRUPTED_EXIT
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("stopping; Ctrl-C once more ends at once", file=sys.stderr, flush=True)
        handler = signal.getsignal(signal.SIGTERM)
        assert callable(handler), "a job that handles SIGTERM does so by a function"
        handler(signal.SIGTERM, frame)

    before = signal.signal(signal.SIGTERM, leave), signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    except SystemExit as error:
        if code is not None:  # Inside a call of Ray, the code has become 1.
            print(stopped, file=sys.stderr, flush=True)
            raise SystemExit(code) from error
        raise
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
