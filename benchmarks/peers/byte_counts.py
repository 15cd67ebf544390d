"""How many bytes a process and its workers read, and how to make the next read a cold one."""

from __future__ import annotations

import os
from pathlib import Path


def bytes_read() -> tuple[int, int]:
    """Bytes that this process and its workers asked for by read calls, and that storage gave them.

    Linux counts them for each process (rchar and read_bytes of /proc/PID/io) and adds those of a
    worker that has ended to its parent's. Mapped files are not read by calls; what is fetched for
    them is counted, with what the kernel reads ahead. Of a Ray only its workers count, since its
    other processes read /proc all the time.
    """
    asked = fetched = 0
    for pid in (os.getpid(), *_workers(os.getpid())):
        try:
            lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # It has ended since it was listed.
            continue
        counts = dict(line.split(": ") for line in lines)
        asked += int(counts["rchar"])
        fetched += int(counts["read_bytes"])
    return asked, fetched


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
    return command.startswith(b"ray::") or b"ray/" not in command
