"""Test-time training layers: sequence layers whose state is a small model that keeps learning.

Names are imported when they are first asked for: reading a configuration needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttt.layers.config import InnerControls, TTTConfig
    from ttt.layers.state import TTTState
    from ttt.layers.ttt_layer import TTTLayer, load_reference_parameters

__all__ = ["InnerControls", "TTTConfig", "TTTLayer", "TTTState", "load_reference_parameters"]

_HOMES = {
    "InnerControls": "config",
    "TTTConfig": "config",
    "TTTLayer": "ttt_layer",
    "TTTState": "state",
    "load_reference_parameters": "ttt_layer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
