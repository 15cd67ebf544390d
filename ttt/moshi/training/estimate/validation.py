"""How much memory a validation takes, in which what is trained stands in its exported form."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from moshi.models.lm import LMModel

from ttt.moshi.insert import insert_unset_ttt, ttt_layers
from ttt.moshi.memory import memory_need
from ttt.moshi.training.config import MoshiTrainingConfig
from ttt.moshi.training.estimate.sizes import Sizes
from ttt.moshi.training.freeze import layer_config


@dataclass(frozen=True)
class ValidationBytes:
    """Bytes by what they are for while a span is heard; their sum lives then."""

    model: int
    """The base and what is trained."""
    optimizer: int
    """AdamW's averages, and the average of the weights where one is kept."""
    copies: int
    """The weights that LoRA is fused into as they were, and TTT layers as they load."""
    hearing: int
    """What the streaming evaluation takes of one span: an upper bound."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.model + self.optimizer + self.copies + self.hearing

    def sentence(self) -> str:
        """All of it in GB (10^9 bytes)."""
        names = "model", "optimizer", "copies", "hearing"
        parts = ", ".join(f"{name} {getattr(self, name) / 1e9:.1f}" for name in names)
        return f"{self.total / 1e9:.1f} GB at most ({parts})"


def validation_bytes(
    lm: LMModel, config: MoshiTrainingConfig, frames: int, chunk: int
) -> ValidationBytes:
    """What hearing a span of so many frames takes beside the training.

    Args:
        lm: the base model on the meta device, in the type that it is trained in.
        chunk: steps per pass.

    Raises:
        UserError: as `training_bytes`.
    """
    sizes, heard = Sizes.of(lm, config), copy.deepcopy(lm)
    if config.ttt is not None:
        shape, context = layer_config(lm, config.ttt), config.ttt.attention_context
        insert_unset_ttt(heard, config.ttt.layers, shape, context)
    layers = ttt_layers(heard).values()
    loaded = sum(each.nbytes for layer in layers for each in layer.parameters())
    averages = 2 if config.optim.ema_decay is None else 3
    return ValidationBytes(
        model=sizes.base_bytes + sizes.trained_bytes,
        optimizer=averages * sizes.trained_bytes,
        copies=sizes.fused_bytes + loaded,
        hearing=memory_need(heard, 1, chunk, frames + 1).total,
    )
