"""What training TTT layers or LoRA in Moshi is told. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ttt.config import Config

Group = Literal["ttt", "gate", "lora"]
GROUPS: tuple[Group, ...] = ("ttt", "gate", "lora")
"""What has a learning rate of its own: TTT layers, their gates, LoRA."""
LoRATarget = Literal["in_projs", "out_projs", "gating"]
LORA_TARGETS: tuple[LoRATarget, ...] = ("in_projs", "out_projs", "gating")
"""Linears of the temporal transformer: attention's projections, and the feed-forward block."""


@dataclass(frozen=True, kw_only=True)
class MemoryConfig(Config):
    """What is computed anew in the backward pass, or bit by bit, to save memory.

    No key changes a result but by rounding.
    """

    attention_block: int | None = None
    """Frames whose attention is computed at once; null takes the model's window."""
    checkpoint_layers: bool = False
    """Compute each layer of the temporal transformer anew in the backward pass; about a third
    slower, and what a layer keeps of a frame is its input alone."""
    checkpoint_mini_batches: int | Literal["auto"] = 0
    """Mini-batches of a TTT layer computed anew together; auto takes the square root of all, 0
    keeps them all."""
    head_block: int | None = None
    """Frames that the depformer and the loss take at once, computed anew in the backward pass; null
    takes all and keeps them."""

    def __post_init__(self) -> None:
        for name in ("attention_block", "head_block"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, or null, got {value}")
        asked = self.checkpoint_mini_batches
        if asked != "auto" and asked < 0:
            raise ValueError(f"checkpoint_mini_batches must be auto, 0 or more, got {asked}")
