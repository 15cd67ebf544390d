"""The flavours ttt_lm and video_dit: TTT-Linear and TTT-MLP.

The small model (`ttt.layers.fast_weights`) is taught key -> value - key, then asked for the query,
which is added to what it answers.

    ttt_lm      ttt-lm-pytorch (test-time-training/ttt-lm-pytorch at cd831db): the same numbers.
                Steps shrink over the mini-batch as 1/(t+1), plus a learnt offset per position.
    video_dit   ttt-video-dit (test-time-training/ttt-video-dit at 6c316a7): unit-length queries
                and keys, standardised targets, steps of 1/mini_batch_size, biases. Published for
                video, where a token sees its whole mini-batch; here made causal, over one
                dimension of time.

Rotary positions count from 0 inside every mini-batch, so nothing depends on the absolute time.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttt.layers.config import InnerControls, TTTConfig
from ttt.layers.fast_weights import Affine, DualForm, FastWeights, Tokens, normalised
from ttt.layers.flavour import Counts, Flavour, Projected, in_state_dtype, state_dtype
from ttt.layers.inner_steps import SeveralSteps
from ttt.layers.rotary import rotate


class AffineFlavour(Flavour):
    """Parameters carry ttt-lm-pytorch's names."""

    has_post_norm = True

    def __init__(self, config: TTTConfig) -> None:
        super().__init__(config)
        self.has_bias = self._is_video = config.flavour == "video_dit"
        self._eps = _VIDEO_DIT_EPS if self._is_video else 1e-6

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Rates, the norm before the loss, and the maps."""
        config = self.config
        heads, head_dim = config.num_heads, config.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "learnable_ttt_lr_weight": (heads, 1, config.dim),
            "learnable_ttt_lr_bias": (heads, 1),
        }
        if not self._is_video:
            shapes["learnable_token_idx"] = (config.mini_batch_size,)
        shapes |= {"ttt_norm_weight": (heads, head_dim), "ttt_norm_bias": (heads, head_dim)}
        for number, (width_in, width_out) in enumerate(self._maps, 1):
            shapes[f"W{number}"] = (heads, width_in, width_out)
            shapes[f"b{number}"] = (heads, 1, width_out)
        return shapes

    @property
    def spread(self) -> float:
        """As the reference draws them."""
        return 0.02

    def initial_weights(self, layer: nn.Module, batch: int) -> FastWeights:
        """W1, b1 and, of an MLP, W2 and b2."""
        return tuple(
            Affine(*(p.repeat(batch, 1, 1, 1) for p in in_state_dtype(layer, f"W{n}", f"b{n}")))
            for n in range(1, 1 + len(self._maps))
        )

    def loop(self, layer: nn.Module, controls: InnerControls) -> DualForm | SeveralSteps:
        """The dual form, or token by token where a control asks for several steps."""
        factors = self._factors(layer)
        if controls.inner_steps > 1:
            return SeveralSteps(factors, self._eps, controls.inner_steps)
        return DualForm(factors, self._eps)

    def tokens(
        self,
        layer: nn.Module,
        controls: InnerControls,
        x: Tensor,
        projected: Projected,
        open_tokens: int,
    ) -> Tokens:
        """Queries, keys, and the gradient that each value asks for."""
        config, dtype = self.config, state_dtype(layer)
        queries, keys, values = (self.in_heads(each) for each in projected)
        both = torch.stack([queries, keys]).to(dtype)
        if self._is_video:
            both = F.normalize(both, dim=-1)
        if config.rope_theta is not None:
            both = rotate(both, open_tokens, config.mini_batch_size, config.rope_theta)
        queries, keys = both
        if controls.query_is_key:
            queries = keys
        norm_weight, norm_bias = self._norm(layer)
        targets = values - keys  # In the keys' type, the wider one.
        if self._is_video:
            centred = targets - targets.mean(dim=-1, keepdim=True)
            targets = centred / (targets.std(dim=-1, keepdim=True) + _VIDEO_DIT_EPS)
            targets = norm_weight * targets + norm_bias
        names = ("learnable_ttt_lr_weight", "learnable_ttt_lr_bias")
        gate_weight, gate_bias = in_state_dtype(layer, *names)
        gate = F.linear(x.to(dtype), gate_weight[:, 0], gate_bias[:, 0])
        base_lr = config.base_lr / config.head_dim * controls.step_sign
        rates = base_lr * gate.sigmoid().mT.unsqueeze(-1)  # [B, H, T, 1]
        # 1/2 |w * unit + b - target|^2 has the gradient w * w * unit + w * (b - target).
        pull = rates * norm_weight
        return Tokens(queries, keys, pull * norm_weight, pull * (norm_bias - targets))

    def output(self, layer: nn.Module, tokens: Tokens, answers: Tensor) -> Tensor:
        """query + LN(f(query))."""
        norm_weight, norm_bias = self._norm(layer)
        units = normalised(answers, self._eps)[0]
        return torch.addcmul(tokens.queries + norm_bias, norm_weight, units)

    def counts(self, controls: InnerControls) -> Counts:
        """Of maps and tapes; with several steps the tokens, in place of their gradients."""
        weights = sum((width_in + 1) * width_out for width_in, width_out in self._maps)
        token = sum(width_in + width_out for width_in, width_out in self._maps)
        several = controls.inner_steps > 1
        if several:
            token = 3 * self.config.head_dim
        return Counts(weights, token, 2 * sum(self._widths), learns_at_commit=several)

    @property
    def _widths(self) -> tuple[int, ...]:
        """Widths along the small model: (d, d) or (d, 4 d, d)."""
        width = self.config.head_dim
        return (width, 4 * width, width) if self.config.kind == "mlp" else (width, width)

    @property
    def _maps(self) -> list[tuple[int, int]]:
        return [*itertools.pairwise(self._widths)]

    def _factors(self, layer: nn.Module) -> Tensor:
        """[b, b] of the loops."""
        size, dtype = self.config.mini_batch_size, state_dtype(layer)
        device = layer.get_parameter("ttt_norm_weight").device
        if self._is_video:
            rates = torch.full((size, 1), -1 / size, device=device, dtype=dtype)
        else:
            (offsets,) = in_state_dtype(layer, "learnable_token_idx")
            rates = (_falling(size, device).to(dtype) - offsets).clamp_max(0).unsqueeze(-1)
        return rates.expand(-1, size).tril()

    def _norm(self, layer: nn.Module) -> tuple[Tensor, Tensor]:
        """Weight and bias [H, 1, d] of the norm before the small model's loss, in its type."""
        weight, bias = in_state_dtype(layer, "ttt_norm_weight", "ttt_norm_bias")
        return weight.unsqueeze(1), bias.unsqueeze(1)


@lru_cache(maxsize=16)
def _falling(size: int, device: torch.device) -> Tensor:
    """-1, -1/2, -1/3, ...: float32 numbers as in the reference, whatever type it computes in."""
    with torch.inference_mode(False):  # Else training could not use it afterwards.
        return -torch.arange(1, size + 1, device=device, dtype=torch.float32).reciprocal()


_VIDEO_DIT_EPS = 1e-8
