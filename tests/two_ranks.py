"""A test's training over two processes of gloo: the file of the test is the script of each rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tests.ports import free_ports

ROOT = Path(__file__).parents[1]


class Killed(BaseException):
    """The process dies here."""


def run_two_ranks(script: str, *arguments: object, killed: bool = False) -> None:
    """Run `script` once for each rank, and see that both end, or are `killed`, as they should."""
    (port,) = free_ports(1)
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(port), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for rank in range(2)
    ]
    codes = [rank.wait(timeout=200) for rank in ranks]
    assert codes == ([-signal.SIGKILL] * 2 if killed else [0, 0])


def be_a_rank(train: Callable[..., None]) -> None:
    """What such a script does: `train(rank, *arguments)` in the group; it never returns.

    Not by sys.exit: gloo's threads may end the process by SIGABRT while it unwinds.
    """
    rank, port, *arguments = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=int(rank),
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    try:
        train(int(rank), *arguments)
    except Killed:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.destroy_process_group()
    os._exit(0)
