"""How many bytes a process and its workers read, and how to make the next read a cold one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Count(NamedTuple):
    """What a process has read since it started."""

    asked: int
    """Bytes asked for by read calls (rchar of /proc/PID/io)."""
    fetched: int
    """Bytes that storage gave it (read_bytes)."""
    of_ray: bool = False
    """Whether Ray started it, so that nobody is given its count when it ends."""


def bytes_read() -> dict[int, Count]:
    """What this process and each of its workers have read, by process.

    Linux adds the count of a worker that has ended to its parent's. Mapped files are not read by
    calls; what is fetched for them is counted, with what the kernel reads ahead. Of a Ray only its
    workers count, since its other processes read /proc all the time.
    """
    found = {}
    for pid in (os.getpid(), *_workers(os.getpid())):
        try:
            lines = Path(f"/proc/{pid}/io").read_text().splitlines()
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):  # It has ended since it was listed.
            continue
        counts = dict(line.split(": ") for line in lines)
        of_ray = command.startswith(_RAY)
        found[pid] = Count(int(counts["rchar"]), int(counts["read_bytes"]), of_ray)
    return found


def bytes_between(before: dict[int, Count], after: dict[int, Count]) -> tuple[int, int] | None:
    """Bytes asked for and fetched between two readings.

    None when a worker of Ray has ended between them, whose count is lost. What ended otherwise is
    in its parent's count with all its life, of which the part before is taken off here. A worker
    that Ray started between them counts with its start.
    """
    if any(before[pid].of_ray for pid in before.keys() - after.keys()):
        return None
    asked = sum(count.asked for count in after.values())
    fetched = sum(count.fetched for count in after.values())
    return (
        asked - sum(count.asked for count in before.values()),
        fetched - sum(count.fetched for count in before.values()),
    )


def forget_pages(folder: Path) -> None:
    """Drop what the page cache holds of a folder's files (POSIX_FADV_DONTNEED)."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # Pages not yet written would stay.
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


_RAY = b"ray::"
"""How the command of each of Ray's workers begins."""


def _workers(parent: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in parentheses may hold spaces.
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, waiting = [], [parent]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return [pid for pid in found if _is_worker(pid)]


def _is_worker(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return command.startswith(_RAY) or b"ray/" not in command
