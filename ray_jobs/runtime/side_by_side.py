"""Commands that run beside each other where none needs what another makes, on one screen.

The earliest of those that run has the screen: its lines appear as it says them. What another says
is kept, and shown in one piece below its command when it has ended or when the screen is free.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

END_SECONDS = 20.0
"""How long a command that is told to end may take; it shuts down its Ray."""
REST_SECONDS = 5.0
"""How long what a command leaves behind may go on saying something after the command's end."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """`python -m module arguments`, and what must have ended before it."""

    name: str
    """One word that the other steps know it by."""
    what: str
    """What it does, in a few words."""
    module: str
    """The module to run, such as `ray_jobs.cache_codes`."""
    arguments: tuple[str, ...]
    """What follows the module on the command line."""
    after: tuple[str, ...] = ()
    """The names of steps whose output it reads."""

    @property
    def typed(self) -> str:
        """The command as one would type it."""
        return shlex.join(["python", "-m", self.module, *self.arguments])


def run_steps(steps: Sequence[Step], *, at_once: int = 2) -> int:
    """Run every step, at most `at_once` at a time, the earliest that can begin first.

    Returns 0, or the exit code of the first that failed: its lines are shown and the others ended.
    They are ended as well when a signal unwinds this function, and none outlives it. What a step
    that failed or was ended has left in its process group is killed.
    """
    waiting, ended = list(steps), set[str]()
    lines: queue.SimpleQueue[tuple[_Running, str | None]] = queue.SimpleQueue()
    screen = _Screen()
    running: list[_Running] = []
    with _ended(running), _hangup_is_sigterm():
        while waiting or running:
            for step in [each for each in waiting if ended.issuperset(each.after)]:
                if len(running) < at_once:
                    waiting.remove(step)
                    running.append(_Running(step, lines))
            assert running, f"no step can begin: {[each.name for each in waiting]}"
            screen.give_to(min(running, key=lambda each: steps.index(each.step)))
            one, line = lines.get()
            if line is not None:
                screen.say(one, line)
                continue
            running.remove(one)
            code = one.process.wait()
            screen.end(one)
            if code != 0:
                print(f"[demo] {one.step.module} stopped with exit code {code}", file=sys.stderr)
                return code
            ended.add(one.step.name)
    return 0


class _Running:
    """A step's process; its lines, and None after its end, go into the queue.

    Until then the process is not reaped, so that its number, which is its group's as well, is
    nobody else's.
    """

    def __init__(self, step: Step, lines: queue.SimpleQueue[tuple[_Running, str | None]]) -> None:
        self.step = step
        self.kept: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", step.module, *step.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            encoding="utf-8",
            errors="replace",
            process_group=0,  # A terminal's Ctrl-C is for us, who tell it once.
        )
        self.over = threading.Event()
        """Set once it has ended and nothing is done to its group here any more."""
        self._lines = lines
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def tell(self) -> None:
        """Tell it to end."""
        # `Popen.terminate` would reap it where it has ended already.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGTERM)

    def kill_group(self) -> None:
        """End it and what it has started in its group at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for line in said:
                self._lines.put((self, line))

    def _watch(self) -> None:
        if self._fails():
            self.kill_group()
        self.over.set()
        # What it has left running may hold the pipe open for as long as it likes.
        self._reader.join(REST_SECONDS)
        self._lines.put((self, None))

    def _fails(self) -> bool:
        """Wait for its end, without reaping it where the system can."""
        try:
            end = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        except AttributeError:  # On macOS before Python 3.13.
            return self.process.wait() != 0
        return end is None or (end.si_code, end.si_status) != (os.CLD_EXITED, 0)


class _Screen:
    """Who says what when."""

    _owner: _Running | None = None

    def give_to(self, one: _Running) -> None:
        """Let it have the screen if nobody has, and show what it has said so far."""
        if self._owner is None:
            self._owner = one
            self._show(one)

    def say(self, one: _Running, line: str) -> None:
        """Show a line of whoever has the screen, keep another's."""
        if one is self._owner:
            print(line, end="", flush=True)
        else:
            one.kept.append(line)

    def end(self, one: _Running) -> None:
        """Show what is kept of a step that has ended."""
        if one is self._owner:
            self._owner = None
            return
        self._show(one)
        if self._owner is not None:
            print(f"\n[demo] and on with {self._owner.step.module}", flush=True)

    def _show(self, one: _Running) -> None:
        print(f"\n[demo] $ {one.step.typed}")
        print("".join(one.kept), end="", flush=True)
        one.kept.clear()


def _environment() -> dict[str, str]:
    """Of a step: what it writes comes in the order in which it does, and it computes on one core,
    since threads that wait for each other would spin while another step has the second."""
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def _ended(running: Sequence[_Running]) -> Iterator[None]:
    """Leave nothing running behind the block: tell it to end, and end what does not in time.

    Whatever is raised meanwhile, such as by a second Ctrl-C, ends all at once.
    """
    try:
        yield
    finally:
        try:
            for one in running:
                one.tell()
            deadline = time.monotonic() + END_SECONDS
            for one in running:
                one.over.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for one in running:
                one.kill_group()
            for one in running:
                one.over.wait()
                one.process.wait()


@contextlib.contextmanager
def _hangup_is_sigterm() -> Iterator[None]:
    """A terminal that is closed ends the steps as well, which are in groups of their own."""
    before = signal.getsignal(signal.SIGHUP)
    if before is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGHUP, lambda _number, _frame: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
