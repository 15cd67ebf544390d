"""Test-time training layers: sequence layers whose state is a small model that keeps learning."""

from ttt.layers.config import TTTConfig
from ttt.layers.state import TTTState
from ttt.layers.ttt_layer import TTTLayer, load_reference_parameters

__all__ = ["TTTConfig", "TTTLayer", "TTTState", "load_reference_parameters"]
