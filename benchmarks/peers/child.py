"""The process in which one way of reading is measured: JSON requests on stdin, answers on stdout.

    python -m benchmarks.peers.child NAME FOLDER

`FOLDER/plain` has the clips, `FOLDER/NAME` the files of this way or of the one
whose files it reads. It runs in the way's own
environment, which has what the peer pins; what libraries print goes to stderr.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.byte_counts import bytes_between, bytes_read, forget_pages
from benchmarks.peers.clips import Clips
from benchmarks.peers.loaders.protocol import CORE_COARSE, Order
from benchmarks.peers.ways import WAYS, Way


def main() -> None:
    """Answer requests until stdin ends."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    # Only answers may be on stdout.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    # Buffers of bytes are not writable, and nobody writes to them.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    desk = Desk(WAYS[name], folder / "plain", folder / (WAYS[name].files or name))
    for line in sys.stdin:
        request = json.loads(line)
        act: Callable[..., Any] = getattr(desk, request.pop("do"))
        try:
            answer = {"answer": act(**request)}
        except Exception as error:  # The parent raises it, or counts it as a refusal.
            traceback.print_exc()
            answer = {"error": in_a_line(error)}
        answers.write(json.dumps(answer) + "\n")


class Desk:
    """What a child can be asked to do; arguments and answers are JSON."""

    def __init__(self, way: Way, plain: Path, folder: Path) -> None:
        self._loader = way.loader()
        self._resumes = way.resumes
        self._plain = plain
        self._folder = folder

    def versions(self, packages: list[str]) -> dict[str, str]:
        """Versions of packages as this process finds them."""
        return {name: importlib.metadata.version(name) for name in packages}

    def write(self) -> dict[str, float]:
        """Convert the clips, unless they are; returns the MB that the files have."""
        if not self._folder.exists():
            self._folder.mkdir()
            self._loader.write(Clips(self._plain), self._folder)
        size = sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())
        return {"megabytes": size / 1e6}

    def check(self, order: dict[str, Any], batches: int) -> int:
        """Compare delivered windows with the clips, value by value; returns how many."""
        clips = Clips(self._plain)
        rows = {clip_id: row for row, clip_id in enumerate(clips.ids)}
        compared = 0
        with self._loader.open(self._folder, Order(**order)) as stream:
            for _, batch in zip(range(batches), stream, strict=False):
                for at, start in enumerate(stream.starts(batch)):
                    row = rows[batch.clip_ids[at]]
                    span = row, start, CORE_COARSE
                    for name, wanted in (
                        ("codes", clips.codes(*span)),
                        ("audio", clips.audio(*span)),
                    ):
                        delivered = getattr(batch, name)[at]
                        if delivered.dtype != torch.int16 or not torch.equal(
                            delivered, torch.from_numpy(wanted)
                        ):
                            raise ValueError(f"{name} of {batch.clip_ids[at]} from {start} differ")
                    compared += 1
        return compared

    def rate(self, order: dict[str, Any], cold: bool) -> dict[str, float | None]:
        """Read an epoch to a loop that only counts; opening files is not timed.

        What starts inside the epoch is: a DataLoader's workers, but not Ray's, which run before.
        So ways compare from the first batch on alone. The bytes are None where they are unknown.
        """
        windows = waited_for = 0
        first = None
        with self._loader.open(self._folder, Order(**order)) as stream:
            if cold:
                gc.collect()
                forget_pages(self._folder)
            before = bytes_read()
            began = time.perf_counter()
            for batch in stream:
                windows += len(batch.clip_ids)
                if first is None:
                    first, waited_for = time.perf_counter() - began, windows
                del batch
            seconds = time.perf_counter() - began
            asked, fetched = bytes_between(before, bytes_read()) or (None, None)
        return {
            "windows": windows,
            "seconds": seconds,
            "first": first or seconds,
            "first_windows": waited_for,
            "asked": asked,
            "fetched": fetched,
        }

    def train(
        self,
        order: dict[str, Any],
        log: str,
        state: str,
        pause: float,
        resume: bool = False,
        hold: int | None = None,
    ) -> int:
        """Read as a training would that keeps its state after each step; returns the steps.

        `state` gets [steps, state] after each batch, and then `log` a line of its samples. After
        `hold` steps it waits until it is killed.
        """
        done, kept = torch.load(state, weights_only=True) if resume else (0, None)
        with (
            self._loader.open(self._folder, Order(**order), kept) as stream,
            open(log, "a") as lines,
        ):
            for batch in stream:
                samples = list(zip(batch.clip_ids, stream.starts(batch), strict=True))
                done += 1
                if self._resumes:
                    self._keep(Path(state), (done, stream.state()))
                lines.write(json.dumps(samples) + "\n")
                lines.flush()
                while done == hold:
                    signal.pause()
                time.sleep(pause)
        return done

    def _keep(self, path: Path, state: Any) -> None:
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(path)


def in_a_line(error: Exception) -> str:
    """The last line of an error's text, before which a worker's traceback may be.

    The line of code that raised it where there is no text.
    """
    kind = type(error).__name__
    lines = str(error).strip().splitlines()
    if not lines:
        (*_, where) = traceback.extract_tb(error.__traceback__)
        return f"{kind} at `{where.line}`"
    return lines[-1] if lines[-1].startswith(kind) else f"{kind}: {lines[-1]}"


if __name__ == "__main__":
    main()
