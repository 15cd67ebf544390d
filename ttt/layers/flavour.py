"""What one flavour of a TTT layer decides, and another decides otherwise.

A flavour holds no tensors: they are the layer's, and it is given the layer whenever it needs them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ttt.layers.config import InnerControls, TTTConfig
from ttt.layers.inner_loop import InnerLoop, Weights


class Projected(NamedTuple):
    """Projections of x, [B, T, dim] each."""

    queries: Tensor
    keys: Tensor
    values: Tensor


class Counts(NamedTuple):
    """Numbers that one head of one stream holds."""

    weights: int
    """Of the small model, at one moment."""
    token: int
    """Of a token of a mini-batch that is kept."""
    learning: int
    """Of a token while its mini-batch is learnt from, beyond all that."""
    learns_at_commit: bool
    """Whether that is when a mini-batch is committed, not when its tokens are heard."""


class Flavour(ABC):
    """The parameters of a flavour's layer, how it is taught and asked, and what it answers."""

    has_bias: bool
    """Whether the four projections have one."""
    has_post_norm: bool
    """Whether the answers of all heads are normalised together before the output projection."""

    def __init__(self, config: TTTConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The layer's parameters beside its projections, in the order in which they are drawn."""

    @property
    @abstractmethod
    def spread(self) -> float:
        """Standard deviation of the small model's matrices when they are drawn."""

    @abstractmethod
    def initial_weights(self, layer: nn.Module, batch: int) -> Weights:
        """The small model as trained, copied for every stream."""

    @abstractmethod
    def loop(self, layer: nn.Module, controls: InnerControls) -> InnerLoop:
        """How the small model learns."""

    @abstractmethod
    def tokens(
        self,
        layer: nn.Module,
        controls: InnerControls,
        x: Tensor,
        projected: Projected,
        open_tokens: int,
    ) -> Any:
        """What the small model is asked and taught, of x [B, T, dim]; its queries come first."""

    @abstractmethod
    def output(self, layer: nn.Module, tokens: Any, answers: Tensor) -> Tensor:
        """What is made of the loop's answers [B, H, T, d], of the same shape."""

    @abstractmethod
    def counts(self, controls: InnerControls) -> Counts:
        """How much there is to keep."""

    def in_heads(self, each: Tensor) -> Tensor:
        """[B, T, dim] as [B, H, T, d]."""
        heads = self.config.num_heads, self.config.head_dim
        return each.unflatten(-1, heads).transpose(1, 2)


def state_dtype(layer: nn.Module) -> torch.dtype:
    """float32 whatever the model's type, except in a float64 layer."""
    double = layer.get_parameter("ttt_norm_weight").dtype == torch.float64
    return torch.float64 if double else torch.float32


def in_state_dtype(layer: nn.Module, *names: str) -> tuple[Tensor, ...]:
    """Parameters of a layer in the type that its small model computes in."""
    return tuple(layer.get_parameter(name).to(state_dtype(layer)) for name in names)
