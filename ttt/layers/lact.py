"""The flavour lact: LaCT's layer, large chunks and a SwiGLU (Zhang et al., 2505.23884).

Queries, keys and values are SiLUs of their projections, queries and keys of unit length. The small
model (`ttt.layers.swiglu`) is taught key -> value by the dot product and moved once a chunk; what
it answers is normalised by head (RMS) and projected.

The same numbers as the authors' code (a1600012888/LaCT at 1f84d47) in what makes the layer:
`BidirectionalLaCTSwiGLU` of its minimal implementations with the causal order of
`block_causal_lact_swiglu`, answers first, then the update. Not taken over is what serves the
attention inside its language model's layer: scales and offsets of shared projections, and a gate
per head on the answer, in whose place stands the gate of `ttt.moshi.insert`. Neither are rotary
positions: they would count from 0 in every chunk, and no query is answered by its own chunk's keys.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttt.layers.config import InnerControls, TTTConfig
from ttt.layers.flavour import Counts, Flavour, Projected, in_state_dtype, state_dtype
from ttt.layers.swiglu import ChunkSteps, Matrix, SwiGLU, Tokens


class LactFlavour(Flavour):
    """Three matrices, a rate for each of every token, and a momentum where it is asked for."""

    has_bias = False
    has_post_norm = False

    def __init__(self, config: TTTConfig) -> None:
        super().__init__(config)
        # A rate is base_lr where its projection is 0: softplus(this) = base_lr.
        self._rate_offset = config.base_lr + math.log(-math.expm1(-config.base_lr))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Rates, momentum, the norm of the answers (one for all heads), and the matrices."""
        heads, width, dim = self.config.num_heads, self.config.head_dim, self.config.dim
        shapes: dict[str, tuple[int, ...]] = {
            "learnable_ttt_lr_weight": (heads, 3, dim),
            "learnable_ttt_lr_bias": (heads, 3),
        }
        if self.config.momentum:
            shapes |= {"momentum_weight": (heads, 1, dim), "momentum_bias": (heads, 1)}
        return (
            shapes
            | {"ttt_norm_weight": (width,)}
            | dict.fromkeys(_MATRICES, (heads, *2 * (width,)))
        )

    @property
    def spread(self) -> float:
        """Keeps the length of a vector."""
        return self.config.head_dim**-0.5

    def initial_weights(self, layer: nn.Module, batch: int) -> SwiGLU:
        """W1, W2 and W3, which nothing has moved yet."""
        first, second, third = (
            Matrix(each, torch.zeros_like(each if self.config.momentum else each[:, :, :0]))
            for each in (p.repeat(batch, 1, 1, 1) for p in in_state_dtype(layer, *_MATRICES))
        )
        return first, second, third

    def loop(self, layer: nn.Module, controls: InnerControls) -> ChunkSteps:
        """A step for each chunk, or as many as a control asks for."""
        first, second, third = in_state_dtype(layer, *_MATRICES)
        return ChunkSteps(
            (first, second, third),
            self.config.mini_batch_size,
            self.config.momentum,
            controls.step_sign,
            controls.inner_steps,
        )

    def tokens(
        self,
        layer: nn.Module,
        controls: InnerControls,
        x: Tensor,
        projected: Projected,
        open_tokens: int,
    ) -> Tokens:
        """Queries, keys, values and rates; the step's sign is the loop's."""
        dtype = state_dtype(layer)
        queries, keys, values = F.silu(torch.stack([self.in_heads(p) for p in projected]).to(dtype))
        keys = _of_unit_length(keys)
        queries = keys if controls.query_is_key else _of_unit_length(queries)
        x = x.to(dtype)
        rates = F.softplus(self._by_head(layer, "learnable_ttt_lr", x) + self._rate_offset)
        if self.config.momentum:
            momentum = self._by_head(layer, "momentum", x).sigmoid()
            rates = torch.cat([rates, momentum], dim=-1)
        return Tokens(queries, keys, values, rates)

    def output(self, layer: nn.Module, tokens: Tokens, answers: Tensor) -> Tensor:
        """RMS norm of each head's answer."""
        (weight,) = in_state_dtype(layer, "ttt_norm_weight")
        return F.rms_norm(answers, weight.shape, weight, eps=1e-5)

    def counts(self, controls: InnerControls) -> Counts:
        """Three matrices, twice with momentum; two vectors a token, and its rates."""
        width, momentum = self.config.head_dim, int(self.config.momentum)
        return Counts(
            weights=3 * width * width * (1 + momentum),
            token=2 * width + 3 + momentum,
            learning=_LEARNING_WIDTHS * width,
            learns_at_commit=True,
        )

    def _by_head(self, layer: nn.Module, name: str, x: Tensor) -> Tensor:
        """A linear map of x [B, T, dim] with a few outputs for each head, [B, H, T, outputs]."""
        weight, bias = in_state_dtype(layer, f"{name}_weight", f"{name}_bias")
        made = F.linear(x, weight.flatten(0, 1), bias.flatten())
        return made.unflatten(-1, bias.shape).transpose(1, 2)


def _of_unit_length(each: Tensor) -> Tensor:
    return each / (each.norm(dim=-1, keepdim=True) + 1e-5)


_MATRICES = ("W1", "W2", "W3")
_LEARNING_WIDTHS = 10
"""Vectors of a token that live at once while its chunk is learnt from."""
