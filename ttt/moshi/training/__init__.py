"""Training of TTT layers and LoRA inside a Moshi whose own weights never change.

Names are imported when they are first asked for: reading a configuration needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttt.moshi.training.attention import block_attention, set_attention_block
    from ttt.moshi.training.config import MemoryConfig, MoshiTrainingConfig, SpansConfig
    from ttt.moshi.training.exported.card import TrainedFacts, card
    from ttt.moshi.training.exported.forms import base_form, exported_form
    from ttt.moshi.training.exported.save import save_trained
    from ttt.moshi.training.exported.start import start_trained
    from ttt.moshi.training.forward import training_nll
    from ttt.moshi.training.freeze import (
        describe_match,
        freeze_base,
        insert_trained,
        lora_rank,
    )
    from ttt.moshi.training.lora import insert_lora, lora_parameters, match_rank
    from ttt.moshi.training.lora_files import load_lora, save_lora
    from ttt.moshi.training.loss import WeightedSum, weighted_nll, weighted_nll_sum
    from ttt.moshi.training.memory import mini_batches_per_checkpoint, sparing
    from ttt.moshi.training.stages import WindowStage
    from ttt.moshi.training.trainee import MoshiTrainee, WindowBatch
    from ttt.moshi.training.validation.chapters import ChapterValidation
    from ttt.moshi.training.validation.hear import HeardSpan, hear_span
    from ttt.moshi.training.validation.rows import differences
    from ttt.moshi.training.validation.spans import (
        Span,
        choose_spans,
        require_beyond_window,
        split_speakers,
    )

__all__ = [
    "ChapterValidation",
    "HeardSpan",
    "MemoryConfig",
    "MoshiTrainee",
    "MoshiTrainingConfig",
    "Span",
    "SpansConfig",
    "TrainedFacts",
    "WeightedSum",
    "WindowBatch",
    "WindowStage",
    "base_form",
    "block_attention",
    "card",
    "choose_spans",
    "describe_match",
    "differences",
    "exported_form",
    "freeze_base",
    "hear_span",
    "insert_lora",
    "insert_trained",
    "load_lora",
    "lora_parameters",
    "lora_rank",
    "match_rank",
    "mini_batches_per_checkpoint",
    "require_beyond_window",
    "save_lora",
    "save_trained",
    "set_attention_block",
    "sparing",
    "split_speakers",
    "start_trained",
    "training_nll",
    "weighted_nll",
    "weighted_nll_sum",
]

_HOMES = {
    "ChapterValidation": "validation.chapters",
    "HeardSpan": "validation.hear",
    "MemoryConfig": "config",
    "MoshiTrainee": "trainee",
    "MoshiTrainingConfig": "config",
    "Span": "validation.spans",
    "SpansConfig": "config",
    "TrainedFacts": "exported.card",
    "WeightedSum": "loss",
    "WindowBatch": "trainee",
    "WindowStage": "stages",
    "base_form": "exported.forms",
    "block_attention": "attention",
    "card": "exported.card",
    "choose_spans": "validation.spans",
    "describe_match": "freeze",
    "differences": "validation.rows",
    "exported_form": "exported.forms",
    "freeze_base": "freeze",
    "hear_span": "validation.hear",
    "insert_lora": "lora",
    "insert_trained": "freeze",
    "load_lora": "lora_files",
    "lora_parameters": "lora",
    "lora_rank": "freeze",
    "match_rank": "lora",
    "mini_batches_per_checkpoint": "memory",
    "require_beyond_window": "validation.spans",
    "save_lora": "lora_files",
    "save_trained": "exported.save",
    "set_attention_block": "attention",
    "sparing": "memory",
    "split_speakers": "validation.spans",
    "start_trained": "exported.start",
    "training_nll": "forward",
    "weighted_nll": "loss",
    "weighted_nll_sum": "loss",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
