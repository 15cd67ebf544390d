"""When a training saves."""

from __future__ import annotations

from dataclasses import dataclass

from ttt.config import Config


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Config):
    """When checkpoints are written and which of them are kept."""

    every_steps: int | None = 1000
    """Write one after every so many steps; null writes none by count."""
    every_minutes: float | None = 30.0
    """Write one after so many minutes of the first worker's clock; null writes none by clock."""
    keep_last: int = 3
    """How many of the newest are kept; the best one is always kept besides."""
    keep_epoch_ends: bool = False
    """Keep the checkpoint at the end of every epoch for good."""

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_steps < 1:
            raise ValueError(f"every_steps must be at least 1 or null, got {self.every_steps}")
        if self.every_minutes is not None and self.every_minutes <= 0:
            raise ValueError(f"every_minutes must be above 0 or null, got {self.every_minutes}")
        if self.keep_last < 1:
            raise ValueError(f"keep_last must be at least 1, got {self.keep_last}")
