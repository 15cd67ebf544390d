"""What every training is told of its workers and of who listens. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass

from ray_jobs.config.workers import WorkersConfig
from ttt.config import Config


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(WorkersConfig):
    """Where and how wide the training runs; the result does not depend on it but for rounding."""

    num_workers: int = 1
    """Ray Train workers; 0 runs the same loop in this process without Ray."""
    min_workers: int | None = None
    """When nodes are lost, go on with as few as these and grow again when others join, from the
    newest checkpoint each time; null waits for all of num_workers."""
    cpus_per_worker: float = 1.0
    """CPUs of each worker; some node must keep a whole CPU beside them to read the data."""
    gpus_per_worker: float = 0.0
    """1 for a GPU of each worker's own, 0 for none."""
    max_failures: int = 3
    """How often lost workers are started again from the newest checkpoint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus_per_worker not in (0, 1):
            raise ValueError(
                f"gpus_per_worker must be 0 or 1 in a training, got {self.gpus_per_worker:g}"
            )
        if self.min_workers is not None and not 1 <= self.min_workers <= self.num_workers:
            raise ValueError(
                f"min_workers must lie between 1 and num_workers {self.num_workers} or be null, "
                f"got {self.min_workers}"
            )
        if self.max_failures < 0:
            raise ValueError(f"max_failures must not be negative, got {self.max_failures}")

    @property
    def worker_counts(self) -> range:
        """The numbers of workers that the run may have at one time or another."""
        return range(self.min_workers or self.num_workers, self.num_workers + 1)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig(Config):
    """Who listens besides metrics.jsonl, which is always written."""

    tensorboard: bool = True
    """Write RUN/tensorboard."""
    wandb: str | None = None
    """Weights & Biases project to log to; null for none."""
    mlflow: str | None = None
    """MLflow experiment to log to; null for none."""
    every_steps: int = 10
    """A step is recorded after every so many (the first of a run always)."""

    def __post_init__(self) -> None:
        if self.every_steps < 1:
            raise ValueError(f"every_steps must be at least 1, got {self.every_steps}")
