"""The `cluster` key of the jobs that work through items."""

from __future__ import annotations

from dataclasses import dataclass

from ray_jobs.config.former_keys import Alias
from ttt.config import Config

FORMER_KEYS = {"cluster.use_gpu": Alias("cluster.gpus_per_worker", {True: 1.0, False: 0.0})}
"""What jobs called these keys before they all had the same."""


@dataclass(frozen=True, kw_only=True)
class WorkersConfig(Config):
    """How many workers share the items; no record depends on it."""

    num_workers: int | None = 1
    """Workers, each with its own copy of the model; null takes as many as there is room for, 0
    works in this process, without Ray."""
    cpus_per_worker: float = 1.0
    """CPUs, and torch threads, of each worker."""
    gpus_per_worker: float = 0.0
    """GPUs of each worker; 0.5 puts two on one, 0 computes on the CPU."""
    address: str | None = None
    """A running cluster; null takes RAY_ADDRESS, or starts a local Ray."""
    local_cpus: int | None = None
    """CPUs of a Ray that is started here; null takes the machine's. Unused on a cluster."""

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")
        if self.cpus_per_worker <= 0 or self.gpus_per_worker < 0:
            raise ValueError("cpus_per_worker must be above 0, and gpus_per_worker 0 or above")
        if self.gpus_per_worker > 1 and self.gpus_per_worker != int(self.gpus_per_worker):
            raise ValueError("gpus_per_worker above 1 must be a whole number")
        if self.local_cpus is not None and self.local_cpus < 1:
            raise ValueError(f"local_cpus must be at least 1 or null, got {self.local_cpus}")

    @property
    def words(self) -> str:
        """How many, for plans."""
        if self.num_workers is None:
            return "as many as there is room for"
        return str(self.num_workers) if self.num_workers else "none, in this process,"

    @property
    def device(self) -> str:
        """Where a worker's model lives."""
        return "cuda" if self.gpus_per_worker else "cpu"

    @property
    def threads(self) -> int:
        """Torch threads of a worker: more than its CPUs would make it many times slower."""
        return max(1, int(self.cpus_per_worker))
