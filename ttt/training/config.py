"""When a training saves, and what every training is told of its optimizers."""

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


@dataclass(frozen=True, kw_only=True)
class AdamWConfig(Config):
    """AdamW and the clipping of its gradients."""

    betas: tuple[float, float]
    """AdamW's decay of the first and the second moment."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay, on every trained parameter."""
    clip_norm: float | None = 1.0
    """Largest global gradient norm of a step; null leaves gradients as they are."""

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {self.betas}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be above 0 or null, got {self.clip_norm}")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(AdamWConfig):
    """The optimizer that a training is about: its rates over the run, and an average of weights."""

    warmup_fraction: float
    """Share of all steps in which rates rise."""
    initial_div: float = 25.0
    """Rates start at their peak divided by this."""
    final_div: float = 1.0e4
    """Rates end at where they started divided by this."""
    ema_decay: float | None = None
    """Decay per step of an average of the trained weights that is validated and exported instead
    of them; null keeps no average."""
    max_skipped_in_row: int = 10
    """Training stops after so many steps in a row with a non-finite loss or gradient."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("initial_div", "final_div"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 < self.warmup_fraction < 1:
            raise ValueError(f"warmup_fraction must lie in (0, 1), got {self.warmup_fraction}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in (0, 1) or be null, got {self.ema_decay}")
        if self.max_skipped_in_row < 1:
            raise ValueError(
                f"max_skipped_in_row must be at least 1, got {self.max_skipped_in_row}"
            )
