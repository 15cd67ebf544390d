"""Moshi with test-time training layers: inserted into the published model, evaluated streaming.

Names are imported when they are first asked for: reading a configuration needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttt.moshi.insert import insert_ttt
    from ttt.moshi.original_checkpoint import import_original
    from ttt.moshi.streaming.evaluate import ChapterNLL, Evaluation, evaluate_codes
    from ttt.moshi.streaming.session import Session
    from ttt.moshi.tiny import tiny_lm
    from ttt.moshi.ttt_files import load_ttt, save_ttt

__all__ = [
    "ChapterNLL",
    "Evaluation",
    "Session",
    "evaluate_codes",
    "import_original",
    "insert_ttt",
    "load_ttt",
    "save_ttt",
    "tiny_lm",
]

_HOMES = {
    "ChapterNLL": "streaming.evaluate",
    "Evaluation": "streaming.evaluate",
    "Session": "streaming.session",
    "evaluate_codes": "streaming.evaluate",
    "import_original": "original_checkpoint",
    "insert_ttt": "insert",
    "load_ttt": "ttt_files",
    "save_ttt": "ttt_files",
    "tiny_lm": "tiny",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
