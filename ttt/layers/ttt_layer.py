"""TTT-Linear and TTT-MLP: layers whose state is a small model that learns while they listen.

A token's key, value and query are projections of x. The small model (ttt.layers.fast_weights) is
taught key -> value - key, then asked for the query. Two published flavours:

    ttt_lm      ttt-lm-pytorch (test-time-training/ttt-lm-pytorch at cd831db): the same numbers.
                Steps shrink over the mini-batch as 1/(t+1), plus a learnt offset per position.
    video_dit   ttt-video-dit (test-time-training/ttt-video-dit at 6c316a7): unit-length queries
                and keys, standardised targets, steps of 1/mini_batch_size, biases. Published for
                video, where a token sees its whole mini-batch; here made causal, over one
                dimension of time.

Rotary positions count from 0 inside every mini-batch, so nothing depends on the absolute time.

Shapes: B streams, T tokens, H heads, d = dim / H width of a head, b mini_batch_size.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttt.config import Config
from ttt.errors import UserError
from ttt.layers.fast_weights import (
    Affine,
    FastWeights,
    InnerNorm,
    TokenRule,
    empty_mini_batch,
    scan,
)
from ttt.layers.rotary import rotate
from ttt.layers.state import TTTState


@dataclasses.dataclass(frozen=True, kw_only=True)
class TTTConfig(Config):
    """The shape of one TTT layer and how it learns."""

    dim: int
    """Width of the model the layer sits in."""
    num_heads: int
    """Heads, each with a small model of its own; must divide dim into even widths."""
    kind: Literal["linear", "mlp"] = "mlp"
    """The small model: one affine map, or two with a GELU between and four times the width."""
    flavour: Literal["ttt_lm", "video_dit"] = "ttt_lm"
    """Which published layer to be: ttt-lm-pytorch's, or ttt-video-dit's made causal."""
    mini_batch_size: int = 16
    """Tokens that share one point of linearisation (ttt_lm 16, video_dit 64 as published)."""
    base_lr: float = 1.0
    """Inner learning rate before the learnt gate (ttt_lm 1.0, video_dit 0.1 as published)."""
    rope_theta: float = 10_000.0
    """Base of the rotary embedding of keys and queries."""
    checkpoint_mini_batches: int = 0
    """Mini-batches computed anew together in the backward pass to save memory; 0 keeps them all."""

    def __post_init__(self) -> None:
        for field in ("dim", "num_heads", "mini_batch_size", "base_lr", "rope_theta"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} must be above 0, not {getattr(self, field)}")
        if self.dim % (2 * self.num_heads):
            raise ValueError(
                f"num_heads={self.num_heads} must divide dim={self.dim} into heads of even width"
            )
        if self.checkpoint_mini_batches < 0:
            raise ValueError("checkpoint_mini_batches must be 0 (keep all) or more")
        for field, choices in (("kind", ("linear", "mlp")), ("flavour", ("ttt_lm", "video_dit"))):
            if getattr(self, field) not in choices:
                raise ValueError(f"{field} must be one of {choices}, not {getattr(self, field)!r}")

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.num_heads

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Widths along the small model: (d, d) or (d, 4 d, d)."""
        inner = (4 * self.head_dim,) if self.kind == "mlp" else ()
        return (self.head_dim, *inner, self.head_dim)


class TTTLayer(nn.Module):
    """One TTT layer: parameters only; what it learns on the way lives in a `TTTState`.

    `updates = False` switches the learning off, so that the layer answers with the weights it
    starts from whatever it hears (the control experiment).

    Parameters carry ttt-lm-pytorch's names; `generator` draws them (None: torch's own). Those that
    the small model starts from and learns by (W, b, its norm, the rates) stay float32 when the
    layer is moved to half precision: rounded, they would move all that it learns.
    """

    def __init__(self, config: TTTConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.updates = True
        heads, head_dim, bias = config.num_heads, config.head_dim, config.flavour == "video_dit"
        self.q_proj = nn.Linear(config.dim, config.dim, bias=bias)
        self.k_proj = nn.Linear(config.dim, config.dim, bias=bias)
        self.v_proj = nn.Linear(config.dim, config.dim, bias=bias)
        self.o_proj = nn.Linear(config.dim, config.dim, bias=bias)
        self.post_norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.learnable_ttt_lr_weight = nn.Parameter(torch.empty(heads, 1, config.dim))
        self.learnable_ttt_lr_bias = nn.Parameter(torch.empty(heads, 1))
        if config.flavour == "ttt_lm":
            self.learnable_token_idx = nn.Parameter(torch.empty(config.mini_batch_size))
        self.ttt_norm_weight = nn.Parameter(torch.empty(heads, head_dim))
        self.ttt_norm_bias = nn.Parameter(torch.empty(heads, head_dim))
        for number, (width_in, width_out) in enumerate(itertools.pairwise(config.map_widths), 1):
            weight = nn.Parameter(torch.empty(heads, width_in, width_out))
            self.register_parameter(f"W{number}", weight)
            self.register_parameter(f"b{number}", nn.Parameter(torch.empty(heads, 1, width_out)))
        self._draw_parameters(generator)

    def _draw_parameters(self, generator: torch.Generator | None) -> None:
        """Draw the parameters as the reference does: matrices N(0, 0.02), norms 1, rest 0."""
        for name, parameter in self.named_parameters():
            if name in ("post_norm.weight", "ttt_norm_weight"):
                nn.init.ones_(parameter)
            elif name.startswith("W") or (name.endswith("weight") and "norm" not in name):
                nn.init.normal_(parameter, std=0.02, generator=generator)
            else:
                nn.init.zeros_(parameter)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `half` and `bfloat16` do to every tensor."""

        def unrounded(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            is_half = moved.dtype in (torch.float16, torch.bfloat16)
            return tensor.to(moved.device, torch.float32) if is_half else moved

        for child in self.children() if recurse else ():
            child._apply(fn)
        return super()._apply(unrounded, recurse=False)

    def init_state(self, batch: int) -> TTTState:
        """The state of streams that have heard nothing; gradients reach W and b through it."""
        weights = self._initial_weights(batch)
        return TTTState(weights=weights, open=empty_mini_batch(weights))

    def forward(self, x: Tensor, state: TTTState) -> tuple[Tensor, TTTState]:
        """Listen to more tokens.

        Args:
            x: [B, T, dim], any T; output t depends on the tokens up to t alone.
            state: of the tokens before; left unchanged.

        Returns:
            y [B, T, dim] and the state after the T tokens. However a sequence is cut into calls,
            the results are the same up to rounding.
        """
        batch, tokens, dim = x.shape
        if (batch, dim) != (state.batch, self.config.dim):
            raise ValueError(
                f"x is {tuple(x.shape)}: this state has {state.batch} streams, this layer width "
                f"{self.config.dim}"
            )
        if not tokens:
            return x, state
        projected = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        # The small model computes in its own precision, also under autocast.
        with torch.autocast(x.device.type, enabled=False):
            queries, keys, targets, rates = self._heads(x, *projected, state.open_tokens)
            answers, weights, mini_batch, committed = scan(
                queries,
                keys,
                targets,
                rates,
                weights=state.weights,
                mini_batch=state.open,
                rule=TokenRule(self._token_rates(), self._norm()),
                checkpoint_mini_batches=self.config.checkpoint_mini_batches,
            )
        mixed = (queries + answers).transpose(1, 2).reshape(x.shape).to(x.dtype)
        y = self.o_proj(self.post_norm(mixed))
        return y, state.after(tokens, weights, mini_batch, committed)

    def rollback(self, state: TTTState, tokens: int) -> TTTState:
        """The state as it was before the last `tokens` tokens, exactly.

        Raises:
            ValueError: the tokens reach back beyond the state's mark.
        """
        return state.rollback(tokens, self._token_rates())

    def reset(self, state: TTTState, rows: Tensor) -> TTTState:
        """The state with some streams as if they had heard nothing.

        Args:
            rows: [B] bool, true for the streams to reset. A mark moves to here.

        Raises:
            ValueError: only some rows are to go while a mini-batch is under way: all streams
                share its boundaries, so single rows can be reset only between mini-batches.
        """
        return state.reset(rows, self._initial_weights(state.batch), self._token_rates())

    def state_bytes(self, batch: int, rollback_tokens: int = 0) -> int:
        """Bytes that a state of `batch` streams holds at most, `rollback_tokens` after its mark."""
        widths = [*itertools.pairwise(self.config.map_widths)]
        copies = 2 if rollback_tokens else 1
        tokens = self.config.mini_batch_size + rollback_tokens
        per_head = copies * sum((width_in + 1) * width_out for width_in, width_out in widths)
        per_head += tokens * sum(width_in + width_out for width_in, width_out in widths)
        return batch * self.config.num_heads * per_head * self.state_dtype.itemsize

    def fast_weight_change(self, state: TTTState) -> Tensor:
        """How far each stream's committed weights have moved, [B]: |W - W0| / |W0|."""
        moved = start = torch.zeros((), device=state.weights[0].weight.device)
        initial = self._initial_weights(1)
        for now, before in zip(state.weights, initial, strict=True):
            for tensor_now, tensor_before in zip(now, before, strict=True):
                moved = moved + (tensor_now - tensor_before).square().sum(dim=(1, 2, 3))
                start = start + tensor_before.square().sum(dim=(1, 2, 3))
        return (moved / start).sqrt()

    @property
    def state_dtype(self) -> torch.dtype:
        """float32 whatever the model's type, except in a float64 layer."""
        double = self.ttt_norm_weight.dtype == torch.float64
        return torch.float64 if double else torch.float32

    # -- from x to what the small model is taught and asked --------------------------------------

    def _heads(
        self, x: Tensor, queries: Tensor, keys: Tensor, values: Tensor, open_tokens: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and targets [B, H, T, d] and learning rates [B, H, T, 1] of the tokens."""
        config, dtype = self.config, self.state_dtype
        batch, tokens, _ = x.shape
        queries, keys, values = (
            each.view(batch, tokens, config.num_heads, config.head_dim).transpose(1, 2).to(dtype)
            for each in (queries, keys, values)
        )
        if config.flavour == "video_dit":
            queries, keys = F.normalize(queries, dim=-1), F.normalize(keys, dim=-1)
        queries, keys = (
            rotate(each, open_tokens, config.mini_batch_size, config.rope_theta)
            for each in (queries, keys)
        )
        targets = values - keys
        if config.flavour == "video_dit":
            centred = targets - targets.mean(dim=-1, keepdim=True)
            targets = centred / (targets.std(dim=-1, keepdim=True) + _VIDEO_DIT_EPS)
            targets = self._norm().weight * targets + self._norm().bias
        gate = x.to(dtype) @ self.learnable_ttt_lr_weight[:, 0].to(dtype).T  # [B, T, H]
        gate = torch.sigmoid(gate.mT.unsqueeze(-1) + self.learnable_ttt_lr_bias[:, None].to(dtype))
        base_lr = config.base_lr / config.head_dim if self.updates else 0.0
        return queries, keys, targets, base_lr * gate

    def _initial_weights(self, batch: int) -> FastWeights:
        """The small model as trained, copied for every stream."""
        maps = []
        for number in range(1, len(self.config.map_widths)):
            pair = [self.get_parameter(f"{letter}{number}") for letter in "Wb"]
            maps.append(Affine(*(p.to(self.state_dtype).repeat(batch, 1, 1, 1) for p in pair)))
        return tuple(maps)

    def _token_rates(self) -> Tensor:
        """[b, 1] factor of the sum of steps at each place of the mini-batch."""
        size, device = self.config.mini_batch_size, self.ttt_norm_weight.device
        if self.config.flavour == "video_dit":
            return torch.full((size, 1), 1 / size, device=device, dtype=self.state_dtype)
        # The reference's 1/(t+1) are float32 numbers in whatever type it computes.
        falling = torch.arange(1, size + 1, device=device, dtype=torch.float32).reciprocal()
        rates = falling.to(self.state_dtype) + self.learnable_token_idx.to(self.state_dtype)
        return rates.clamp_min(0).unsqueeze(-1)

    def _norm(self) -> InnerNorm:
        """The norm before the small model's loss, in the state's type."""
        weight = self.ttt_norm_weight.to(self.state_dtype).unsqueeze(1)
        bias = self.ttt_norm_bias.to(self.state_dtype).unsqueeze(1)
        return InnerNorm(weight, bias, 1e-6 if self.config.flavour == "ttt_lm" else _VIDEO_DIT_EPS)


_VIDEO_DIT_EPS = 1e-8


def load_reference_parameters(layer: TTTLayer, tensors: dict[str, Tensor]) -> None:
    """Copy one layer's parameters of ttt-lm-pytorch (TTTLinear, TTTMLP) into `layer`.

    Raises:
        UserError: the names or shapes are not this layer's; the layer is then unchanged.
    """
    wanted = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != given:
        wrong = sorted(name for name in wanted | given if wanted.get(name) != given.get(name))
        listed = "; ".join(
            f"{name}: needed {wanted.get(name, 'nothing')}, given {given.get(name, 'nothing')}"
            for name in wrong
        )
        raise UserError(f"these are not the parameters of a {layer.config.kind} layer: {listed}")
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(tensors[name])
