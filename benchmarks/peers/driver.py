"""Drive children, one for each way of reading: ask, answer, kill."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import ROOT, python_of
from benchmarks.peers.ways import WAYS

ANSWER_SECONDS = 600.0


class Refused(Exception):
    """What a child could not do; the text is the error of the way that it measures."""


class Child:
    """A running child. All its processes are one group, which `kill` ends at once."""

    def __init__(self, name: str, folder: Path) -> None:
        home = folder / "home" / name
        home.mkdir(parents=True, exist_ok=True)
        self._log = (folder / f"{name}.log").open("a")
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        if WAYS[name].environment is not None:
            # Peers keep caches at home; ours must find Ray's settings as they are.
            environment |= {"HOME": str(home), "HF_HOME": str(home)}
        self.process = subprocess.Popen(
            [
                str(python_of(WAYS[name].environment)),
                "-m",
                "benchmarks.peers.child",
                name,
                str(folder),
            ],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            process_group=0,
        )

    def ask(self, do: str, **arguments: Any) -> Any:
        """Let the child do something and wait for its answer.

        Raises Refused when it fails, or takes longer than ANSWER_SECONDS: it is to be killed then.
        """
        self.begin(do, **arguments)
        assert self.process.stdout is not None
        # Nothing lies in the buffer: each answer is one line, and was read.
        if not select.select([self.process.stdout], [], [], ANSWER_SECONDS)[0]:
            raise Refused(f"no answer to {do} in {ANSWER_SECONDS:.0f} s; see {self._log.name}")
        line = self.process.stdout.readline()
        if not line:
            raise Refused(f"the process ended with {self.process.wait()}; see {self._log.name}")
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["answer"]

    def begin(self, do: str, **arguments: Any) -> None:
        """Let the child do something without waiting for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End the child and all its workers with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._collect()

    def close(self) -> None:
        """Let the child end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self._collect()

    def _collect(self) -> None:
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self._log):
            if file is not None:
                with contextlib.suppress(BrokenPipeError):
                    file.close()


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[Child]:
    """A child inside the block."""
    child = Child(name, folder)
    try:
        yield child
        child.close()
    finally:
        child.kill()


def wait_for_lines(path: Path, count: int, child: Child) -> None:
    """Wait until a child has written so many lines. Raises Refused when it ends before."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while not path.exists() or path.read_text().count("\n") < count:
        if child.process.poll() is not None or time.monotonic() > deadline:
            raise Refused(f"{count} steps were not reached; see the log beside {path}")
        time.sleep(0.005)
