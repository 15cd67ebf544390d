"""Training of TTT layers and LoRA inside a Moshi whose own weights never change.

Names are imported when they are first asked for: reading a configuration needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttt.moshi.training.attention import block_attention, set_attention_block
    from ttt.moshi.training.config import MemoryConfig, MoshiTrainingConfig
    from ttt.moshi.training.forward import training_nll
    from ttt.moshi.training.freeze import freeze_base, insert_trained, lora_rank
    from ttt.moshi.training.lora import insert_lora, lora_parameters, match_rank
    from ttt.moshi.training.lora_files import load_lora, save_lora
    from ttt.moshi.training.loss import WeightedSum, weighted_nll, weighted_nll_sum
    from ttt.moshi.training.memory import mini_batches_per_checkpoint, sparing
    from ttt.moshi.training.stages import WindowStage
    from ttt.moshi.training.trainee import MoshiTrainee, WindowBatch

__all__ = [
    "MemoryConfig",
    "MoshiTrainee",
    "MoshiTrainingConfig",
    "WeightedSum",
    "WindowBatch",
    "WindowStage",
    "block_attention",
    "freeze_base",
    "insert_lora",
    "insert_trained",
    "load_lora",
    "lora_parameters",
    "lora_rank",
    "match_rank",
    "mini_batches_per_checkpoint",
    "save_lora",
    "set_attention_block",
    "sparing",
    "training_nll",
    "weighted_nll",
    "weighted_nll_sum",
]

_HOMES = {
    "MemoryConfig": "config",
    "MoshiTrainee": "trainee",
    "MoshiTrainingConfig": "config",
    "WeightedSum": "loss",
    "WindowBatch": "trainee",
    "WindowStage": "stages",
    "block_attention": "attention",
    "freeze_base": "freeze",
    "insert_lora": "lora",
    "insert_trained": "freeze",
    "load_lora": "lora_files",
    "lora_parameters": "lora",
    "lora_rank": "freeze",
    "match_rank": "lora",
    "mini_batches_per_checkpoint": "memory",
    "save_lora": "lora_files",
    "set_attention_block": "attention",
    "sparing": "memory",
    "training_nll": "forward",
    "weighted_nll": "loss",
    "weighted_nll_sum": "loss",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
