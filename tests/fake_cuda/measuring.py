"""The benchmark of GPUs itself, on the pretended card: its numbers are counts, its clock stands."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.__main__ import section
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.cases import Row, run
from benchmarks.gpu.device import Device, Peak, Profile
from tests.fake_cuda.pretended import PretendedCuda

if TYPE_CHECKING:
    from tests.fake_cuda.scenes import Stage


class PretendedDevice(Device):
    """Asks the pretended card instead of CUDA."""

    kind = "cuda"

    def __init__(self, card: PretendedCuda) -> None:
        self._card = card

    def peak(self, work: Callable[[], object]) -> Peak | None:
        self._card.clear()
        before = self._card.live_bytes
        work()
        return Peak(before, self._card.most_bytes)

    def profiled(self, work: Callable[[], object]) -> Profile | None:
        self._card.clear()
        work()
        return Profile(self._card.launches.total(), 1.0)


def measured(stage: Stage, *names: str) -> dict[str, Any]:
    """The rows of these sections."""
    # Otherwise a module that is moved keeps its tensors and exchanges what they hold.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    rows: list[Row] = []
    bench = Bench(stage.size, PretendedDevice(stage.card))
    for name in names:
        run(section(name), bench, time.monotonic() + 3600, rows.append)
    return {"rows": [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows]}
