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
from functools import lru_cache
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttt.errors import UserError
from ttt.layers.config import InnerControls, TTTConfig
from ttt.layers.fast_weights import (
    Affine,
    FastWeights,
    TokenRule,
    Tokens,
    scan,
)
from ttt.layers.inner_steps import scan_steps
from ttt.layers.rotary import rotate
from ttt.layers.state import TTTState, empty_mini_batch


class TTTLayer(nn.Module):
    """One TTT layer: parameters only; what it learns on the way lives in a `TTTState`.

    `controls` changes what the inner loop does, for control experiments; to be set between streams.

    Parameters carry ttt-lm-pytorch's names; `generator` draws them (None: torch's own). Those that
    the small model starts from and learns by (W, b, its norm, the rates) stay float32 when the
    layer is moved to half precision: rounded, they would move all that it learns.
    """

    def __init__(self, config: TTTConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.controls = InnerControls()
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
        return TTTState(weights=weights, open=empty_mini_batch(weights, self.controls.inner_steps))

    def forward(self, x: Tensor, state: TTTState) -> tuple[Tensor, TTTState]:
        """Listen to more tokens.

        Args:
            x: [B, T, dim], any T; output t depends on the tokens up to t alone.
            state: of the tokens before; left unchanged.

        Returns:
            y [B, T, dim] and the state after the T tokens. However a sequence is cut into calls,
            the results are the same up to rounding.
        """
        batch, count, dim = x.shape
        if (batch, dim) != (state.batch, self.config.dim):
            raise ValueError(
                f"x is {tuple(x.shape)}: this state has {state.batch} streams, this layer width "
                f"{self.config.dim}"
            )
        if not count:
            return x, state
        projected = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        # The small model computes in its own precision, also under autocast.
        with torch.autocast(x.device.type, enabled=False):
            tokens = self._tokens(x, *projected, state.open_tokens)
            given: dict[str, Any] = {"weights": state.weights, "mini_batch": state.open}
            if self.controls.inner_steps > 1:
                found = scan_steps(tokens, rule=self._rule(), **given)
            else:
                group = self.config.checkpoint_mini_batches
                found = scan(tokens, rule=self._rule(), checkpoint_mini_batches=group, **given)
            units, weights, mini_batch, committed = found
            norm_weight, norm_bias = self._norm()
            mixed = torch.addcmul(tokens.queries + norm_bias, norm_weight, units).transpose(1, 2)
            mixed = mixed.to(x.dtype, memory_format=torch.contiguous_format).reshape(x.shape)
        y = self.o_proj(self.post_norm(mixed))
        return y, state.after(count, weights, mini_batch, committed)

    def rollback(self, state: TTTState, tokens: int) -> TTTState:
        """The state as it was before the last `tokens` tokens, exactly.

        Raises:
            ValueError: the tokens reach back beyond the state's mark.
        """
        return state.rollback(tokens, self._rule())

    def reset(self, state: TTTState, rows: Tensor) -> TTTState:
        """The state with some streams as if they had heard nothing.

        Args:
            rows: [B] bool, true for the streams to reset. A mark moves to here.

        Raises:
            ValueError: only some rows are to go while a mini-batch is under way: all streams
                share its boundaries, so single rows can be reset only between mini-batches.
        """
        return state.reset(rows, self._initial_weights(state.batch), self._rule())

    def state_bytes(self, batch: int, rollback_tokens: int = 0) -> int:
        """Bytes that a state of `batch` streams holds at most, `rollback_tokens` after its mark."""
        widths = [*itertools.pairwise(self.config.map_widths)]
        copies = 2 if rollback_tokens else 1
        tokens = self.config.mini_batch_size + rollback_tokens
        per_head = copies * sum((width_in + 1) * width_out for width_in, width_out in widths)
        if self.controls.inner_steps > 1:  # The tokens themselves, in place of their gradients.
            per_head += tokens * 3 * self.config.head_dim
        else:
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
    def updates(self) -> bool:
        """Whether the layer learns; set to False it answers with the weights it starts from."""
        return self.controls.updates

    @updates.setter
    def updates(self, learns: bool) -> None:
        self.controls = dataclasses.replace(self.controls, updates=learns)

    @property
    def state_dtype(self) -> torch.dtype:
        """float32 whatever the model's type, except in a float64 layer."""
        double = self.ttt_norm_weight.dtype == torch.float64
        return torch.float64 if double else torch.float32

    # -- from x to what the small model is taught and asked --------------------------------------

    def _tokens(
        self, x: Tensor, queries: Tensor, keys: Tensor, values: Tensor, open_tokens: int
    ) -> Tokens:
        """What the small model is asked and taught, of x and its projections [B, T, dim]."""
        config, dtype = self.config, self.state_dtype
        batch, tokens, _ = x.shape
        queries, keys, values = (
            each.view(batch, tokens, config.num_heads, config.head_dim).transpose(1, 2)
            for each in (queries, keys, values)
        )
        both = torch.stack([queries, keys]).to(dtype)
        if config.flavour == "video_dit":
            both = F.normalize(both, dim=-1)
        if config.rope_theta is not None:
            both = rotate(both, open_tokens, config.mini_batch_size, config.rope_theta)
        queries, keys = both
        if self.controls.query_is_key:
            queries = keys
        norm_weight, norm_bias = self._norm()
        targets = values - keys  # In the keys' type, the wider one.
        if config.flavour == "video_dit":
            centred = targets - targets.mean(dim=-1, keepdim=True)
            targets = centred / (targets.std(dim=-1, keepdim=True) + _VIDEO_DIT_EPS)
            targets = norm_weight * targets + norm_bias
        gate_weight, gate_bias = self.learnable_ttt_lr_weight, self.learnable_ttt_lr_bias
        gate = F.linear(x.to(dtype), gate_weight[:, 0].to(dtype), gate_bias[:, 0].to(dtype))
        base_lr = config.base_lr / config.head_dim * self.controls.step_sign
        rates = base_lr * gate.sigmoid().mT.unsqueeze(-1)  # [B, H, T, 1]
        # 1/2 |w * unit + b - target|^2 has the gradient w * w * unit + w * (b - target).
        pull = rates * norm_weight
        return Tokens(queries, keys, pull * norm_weight, pull * (norm_bias - targets))

    def _initial_weights(self, batch: int) -> FastWeights:
        """The small model as trained, copied for every stream."""
        maps = []
        for number in range(1, len(self.config.map_widths)):
            pair = [self.get_parameter(f"{letter}{number}") for letter in "Wb"]
            maps.append(Affine(*(p.to(self.state_dtype).repeat(batch, 1, 1, 1) for p in pair)))
        return tuple(maps)

    def _rule(self) -> TokenRule:
        return TokenRule(self._factors(), self._norm_eps, self.controls.inner_steps)

    def _factors(self) -> Tensor:
        """[b, b] of `TokenRule`."""
        size, norm, dtype = self.config.mini_batch_size, self.ttt_norm_weight, self.state_dtype
        if self.config.flavour == "video_dit":
            rates = torch.full((size, 1), -1 / size, device=norm.device, dtype=dtype)
        else:
            falling = _falling(size, norm.device).to(dtype)
            rates = (falling - self.learnable_token_idx.to(dtype)).clamp_max(0).unsqueeze(-1)
        return rates.expand(-1, size).tril()

    def _norm(self) -> tuple[Tensor, Tensor]:
        """Weight and bias [H, 1, d] of the norm before the small model's loss, in its type."""
        pair = (self.ttt_norm_weight, self.ttt_norm_bias)
        weight, bias = (each.to(self.state_dtype).unsqueeze(1) for each in pair)
        return weight, bias

    @property
    def _norm_eps(self) -> float:
        return 1e-6 if self.config.flavour == "ttt_lm" else _VIDEO_DIT_EPS


@lru_cache(maxsize=16)
def _falling(size: int, device: torch.device) -> Tensor:
    """-1, -1/2, -1/3, ...: float32 numbers as in the reference, whatever type it computes in."""
    with torch.inference_mode(False):  # Else training could not use it afterwards.
        return -torch.arange(1, size + 1, device=device, dtype=torch.float32).reciprocal()


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
