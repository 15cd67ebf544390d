"""Processes of Ray workers below this one, for tests that kill them or hold them up."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def killing(find: Callable[[], Iterable[int]], times: int = 1) -> Iterator[None]:
    """Kill -9 the first `times` processes that `find` gives, asked again and again while the block
    runs; there must have been as many in the end."""
    killed: list[int] = []

    def kill(over: threading.Event) -> None:
        while not over.is_set():
            for pid in find():
                if pid in killed:
                    continue
                with contextlib.suppress(ProcessLookupError):  # It ended by itself.
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                if len(killed) == times:
                    return
            time.sleep(0.005)

    with _beside(kill):
        yield
    assert len(killed) == times


@contextlib.contextmanager
def slowed(pids: Iterable[int]) -> Iterator[None]:
    """Processes that run for a tenth of the time only while the block runs, or until they end."""

    def send(number: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def brake(over: threading.Event) -> None:
        while not over.is_set():
            send(signal.SIGSTOP)
            over.wait(0.45)
            send(signal.SIGCONT)
            over.wait(0.05)

    with _beside(brake):
        yield


def worker_pids(title: str, below: int | None = None) -> list[int]:
    """Processes whose command line holds `title`, started by the process `below` (this one) or by
    its children."""
    above = str(below or os.getpid())
    return [
        pid for pid, parents in _processes() if above in parents and title in _read(pid, "cmdline")
    ]


@contextlib.contextmanager
def _beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do `work` in a thread while the block runs; it is told when that is over."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _processes() -> list[tuple[int, list[str]]]:
    """Every process with its parents, nearest first."""
    parent: dict[str, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _read(int(entry.name), "stat")):
            parent[entry.name] = stat.rpartition(")")[2].split()[1]
    found = []
    for pid in parent:
        parents, above = [], parent[pid]
        while above in parent:
            parents.append(above)
            above = parent[above]
        found.append((int(pid), parents))
    return found


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""
