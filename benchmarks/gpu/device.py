"""The machine's device as measuring needs it: what it takes, holds and is asked to do."""

from __future__ import annotations

import gc
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Profile:
    """What a device was asked to do, and how long it was at work."""

    kernels: int
    busy_seconds: float
    """Of its kernels and copies; they follow one another."""


@dataclass(frozen=True)
class Peak:
    """Bytes of tensors that lived."""

    before: int
    most: int


class Device:
    """A CPU, on which the code runs and nobody counts kernels or bytes; the base of the others."""

    kind = "cpu"

    def facts(self) -> dict[str, Any]:
        """What a figure must be told with."""
        return {
            "device": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }

    def wait(self) -> None:
        """Until the device has done all that it was asked for."""

    def free(self) -> None:
        """Give back what nobody holds any more."""
        gc.collect()

    def seconds(self, work: Callable[[], object], rounds: int, warm_up: int = 1) -> float:
        """What the work takes by the clock, in the median of the rounds."""
        for _ in range(warm_up):
            work()
        taken = []
        for _ in range(rounds):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    def peak(self, work: Callable[[], object]) -> Peak | None:
        """What lives at the most while the work is done; None where nobody counts."""
        work()
        return None

    def profiled(self, work: Callable[[], object]) -> Profile | None:
        """What the work asks of the device; None where nobody counts."""
        work()
        return None


class Cuda(Device):
    """The first CUDA device."""

    kind = "cuda"

    def facts(self) -> dict[str, Any]:
        of_card = torch.cuda.get_device_properties(0)
        return {
            **super().facts(),
            "device": of_card.name,
            "memory_gb": of_card.total_memory / 1e9,
            "compute_capability": f"{of_card.major}.{of_card.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver(),
        }

    def wait(self) -> None:
        torch.cuda.synchronize()

    def free(self) -> None:
        super().free()
        torch.cuda.empty_cache()

    def peak(self, work: Callable[[], object]) -> Peak | None:
        self.wait()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        self.wait()
        return Peak(before, torch.cuda.max_memory_allocated())

    def profiled(self, work: Callable[[], object]) -> Profile | None:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
            work()
            self.wait()
        done = [
            event
            for event in found.events() or ()
            if event.device_type.name == "CUDA" and not event.is_user_annotation
        ]
        kernels = sum(not event.name.startswith(("Memcpy", "Memset")) for event in done)
        return Profile(kernels, sum(event.time_range.elapsed_us() for event in done) / 1e6)


def _driver() -> str:
    """NVIDIA's driver, as its own tool names it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown: there is no nvidia-smi"
    words = [tool, "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stdout.strip() or f"unknown: {done.stderr.strip()}"
