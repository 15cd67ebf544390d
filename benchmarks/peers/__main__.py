"""Ours against its peers on the same clips, each in an environment of its own.

    python -m benchmarks.peers [--small] [--only NAME ...] [--rounds N] [--kills N]

makes .venv-peers (pip, about 300 MB; torch comes from the project's environment), writes clips of
noise of 3 to 15 s as our cache, converts them for every way of reading from the same bytes, and
prints two tables and their numbers as one JSON object:

warm   windows of 1 s per second that reach a loop that only counts them, int16 codes and audio in
       batches of 32, two workers each, an epoch of four times all clips; the ways take turns,
       and a ratio is that of one round, ours with its first batch against theirs without
cold   an epoch of all clips after their pages were dropped; bytes per window that were asked for
       by read calls, and that storage gave
kills  an epoch killed with SIGKILL after random steps and resumed from the state kept last

Ray and its workers run before an epoch is timed, a DataLoader's workers start inside it: only
figures after the first batch compare.

First a few batches of every way are compared with the clips, value by value. `--small` reads few
clips by the project's own ways, which need nothing installed; `--folder` says where files are
written and removed again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.data_path import write_random_cache
from benchmarks.peers import environments, tables
from benchmarks.peers.clips import write_clips
from benchmarks.peers.driver import Child, running
from benchmarks.peers.kills import kill_and_resume
from benchmarks.peers.loaders.protocol import Order
from benchmarks.peers.rates import rounds_of
from benchmarks.peers.ways import OWN, WAYS
from ttt.errors import UserError


def main() -> int:
    """Print the tables and the numbers; returns the exit code."""
    parser = argparse.ArgumentParser(description="Ours and its peers on the same clips.")
    parser.add_argument("--small", action="store_true", help="few clips, the project's own ways")
    parser.add_argument("--only", nargs="+", choices=WAYS, metavar="NAME", help=", ".join(WAYS))
    parser.add_argument("--folder", help="where the files are written and removed; TMPDIR else")
    parser.add_argument("--rounds", type=int, help="warm rounds, 5 else; at most three are cold")
    parser.add_argument("--kills", type=int, help="kills of each way, 3 else")
    words = parser.parse_args()
    names = tuple(words.only or (OWN if words.small else WAYS))
    try:
        for environment in dict.fromkeys(WAYS[name].environment for name in names):
            if not environments.is_ready(environment):
                print(f"making {environments.python_of(environment)}", file=sys.stderr)
                environments.make(environment or "")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sizes = dict(SMALL if words.small else FULL)
    if words.rounds:
        sizes |= {"rounds": words.rounds, "cold_rounds": min(words.rounds, 3)}
    sizes["kills"] = words.kills or sizes["kills"]
    with tempfile.TemporaryDirectory(prefix="peers-", dir=words.folder) as folder:
        kills = sizes.pop("kills")
        result = measure(names, Path(folder), **sizes)
        print(tables.rates(result), flush=True)
        order = Order(seed=0)
        killed = {name: kill_and_resume(name, Path(folder), order, kills) for name in names}
    result["kills"] = killed
    print(tables.kills(result))
    print(json.dumps(result))
    return 0


FULL: dict[str, int] = {"clips": 1280, "repeats": 4, "rounds": 5, "cold_rounds": 3, "kills": 3}
SMALL: dict[str, int] = {"clips": 256, "repeats": 2, "rounds": 2, "cold_rounds": 1, "kills": 1}


def measure(
    names: tuple[str, ...],
    folder: Path,
    *,
    clips: int,
    repeats: int,
    rounds: int,
    cold_rounds: int,
) -> dict[str, Any]:
    """Rates and bytes of some ways. Raises Refused when one does not deliver the clips."""
    load = [os.getloadavg()[0]]
    write_clips(write_random_cache(folder / "cache", clips, seconds=(3, 15)), folder / "plain")
    with contextlib.ExitStack() as stack:
        written: dict[str, dict[str, Any]] = {}
        for name in names:
            files = WAYS[name].files or name
            if files not in written:
                written[files] = _write(name, folder)
        children = {name: stack.enter_context(running(name, folder)) for name in names}
        ways = {
            name: written[WAYS[name].files or name] | _checked(name, child)
            for name, child in children.items()
        }
        rounds_of(children, 1, 1, cold=False)  # Warms the page cache.
        load.append(os.getloadavg()[0])
        warm = rounds_of(children, rounds, repeats, cold=False)
        load.append(os.getloadavg()[0])
        cold = rounds_of(children, cold_rounds, 1, cold=True)
        load.append(os.getloadavg()[0])
    return {
        "benchmark": "peers",
        "clips": clips,
        "cpus": len(os.sched_getaffinity(0)),
        "load": load,
        "ways": ways,
        "warm": warm,
        "cold": cold,
    }


def _write(name: str, folder: Path) -> dict[str, Any]:
    """Convert the clips for a way.

    In a process of its own: LitData's writer changes how its process starts others, and its reader
    would wait seconds for each.
    """
    with running(name, folder) as child:
        return child.ask("write")


def _checked(name: str, child: Child) -> dict[str, Any]:
    """What a way is, after some of what it delivers was compared with the clips."""
    return {
        "words": WAYS[name].words,
        "versions": child.ask("versions", packages=list(WAYS[name].packages)),
        "compared": child.ask("check", order=asdict(Order(seed=0)), batches=4),
    }


if __name__ == "__main__":
    sys.exit(main())
