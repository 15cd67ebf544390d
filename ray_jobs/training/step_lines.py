"""Files of JSON lines that each belong to a step of a run: no restart makes a line be there twice.

On a disk a line is there at once. On an object store, where nothing can be appended to, lines wait
in memory for the next upload.
"""

from __future__ import annotations

import json
from typing import Any

from ttt import records, storage


class StepLines:
    """One such file; every line has its "step"."""

    def __init__(self, run: str, name: str) -> None:
        """The file `name` in the run's folder or URI; nothing is read yet."""
        self._uri = storage.join(run, name)
        self._lines: list[str] = []  # only of a run on an object store

    def go_on(self, step: int) -> None:
        """Drop the lines of later steps than the one that the run goes on from, and at step 0 all:
        its validation comes again."""
        if not storage.exists(self._uri):
            return
        lines = storage.read_bytes(self._uri).decode().splitlines()
        kept = [line for line in lines if step > 0 and _step_of(line) <= step]
        storage.write_bytes(self._uri, _file(kept))
        if not storage.is_local(self._uri):
            self._lines = kept

    def append(self, line: dict[str, Any]) -> None:
        """Add a line; NaN and infinity become null. Raises UserError when the disk is full."""
        if storage.is_local(self._uri):
            records.append_jsonl(storage.local_path(self._uri), line)
        else:
            self._lines.append(json.dumps(records.finite(line), allow_nan=False))

    def upload(self) -> None:
        """Bring the lines that wait to where the run is."""
        if self._lines:
            storage.write_bytes(self._uri, _file(self._lines))


def _file(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _step_of(line: str) -> float:
    """The step of a line; a line cut short by a kill belongs to no step that was saved."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return float("inf")
