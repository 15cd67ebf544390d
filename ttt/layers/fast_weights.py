"""The small model of TTT-Linear and TTT-MLP: how it learns from tokens and answers them.

Every head of such a layer owns a small model f (one affine map, or two with a GELU between) that
learns from each token: a key k and a target give the loss 1/2 |LN(f(k)) - target|^2. Tokens come in
mini-batches. All gradients of a mini-batch are taken at the weights it started with, and token t
is read with the steps of the mini-batch's tokens up to t:

    weights at t = weights at start - token_rate[t] * sum over j <= t of rate[j] * gradient[j]

At a commit the last token's sum is folded into the weights. Until then a mini-batch is kept as
tapes (each map's inputs and scaled gradients), from which the sums are formed without ever building
a gradient matrix (the dual form).

Source: Sun et al., "Learning to (Learn at Test Time)", 2407.04620, sections 2.4 and 2.5.

A GPU waits for the machine to hand it one operation after the other, so they are few: a product
takes its sum along (`baddbmm`), and whatever needs no weights is made for all tokens of a call at
once, before the mini-batches and after them. `python -m benchmarks.launches chunk` counts.

Shapes: B streams, H heads, G = B * H, n tokens kept, m tokens read, b tokens of a whole
mini-batch, i -> o the widths of one affine map, d the width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ttt.layers.inner_loop import InnerLoop


class Affine(NamedTuple):
    """One affine map of the small model."""

    weight: Tensor  # [B, H, i, o]
    bias: Tensor  # [B, H, 1, o]


class Tape(NamedTuple):
    """What one affine map took in, and how far each token wants it to step."""

    inputs: Tensor  # [B, H, n, i]
    steps: Tensor  # [B, H, n, o]: rate * gradient at the map's output


FastWeights = tuple[Affine, ...]
"""The small model: its affine maps, first to last."""
Tapes = tuple[Tape, ...]
"""The tokens of one mini-batch: a tape for each affine map."""


class Tokens(NamedTuple):
    """What the small model is asked and taught, [B, H, T, d] each, T at least 1.

    At the layer norm's output, before its weight and bias, the gradient of a token's loss times
    the token's learning rate is `slopes * output + offsets`.
    """

    queries: Tensor
    keys: Tensor
    slopes: Tensor
    offsets: Tensor


@dataclass(frozen=True, eq=False)
class DualForm(InnerLoop):
    """One gradient step for each token, none of which is ever built as a matrix.

    Answers are what the layer norm is given, before it: see `normalised`.
    """

    factors: Tensor
    """[b, b] minus the token rate of the row's token, for the steps of those up to it; else 0."""
    eps: float
    """Of the layer norm between the small model and its loss."""

    @property
    def size(self) -> int:
        """Tokens of a whole mini-batch."""
        return len(self.factors)

    def no_tokens(self, weights: FastWeights) -> Tapes:
        """A tape for each map."""
        return tuple(
            Tape(
                weight.new_empty(*weight.shape[:2], 0, weight.shape[2]),
                weight.new_empty(*weight.shape[:2], 0, weight.shape[3]),
            )
            for weight, _ in weights
        )

    def kept(self, tokens: Tokens, weights: FastWeights) -> Tapes:
        """The tokens' gradient steps."""
        return gradient_steps(tokens, weights, self.eps)

    def answer(self, tokens: Tokens, weights: FastWeights, batch: Tapes) -> Tensor:
        """f(queries), each query seeing the steps of its own token and of those before it."""
        last, count = batch[0].inputs.shape[1], tokens.queries.shape[1]
        return _read(tokens.queries, weights, batch, self.factors[last - count : last, :last])

    def commit(self, weights: FastWeights, batch: Tapes) -> FastWeights:
        """The weights moved as the mini-batch's last token is."""
        return commit_steps(weights, batch, self.factors)


# -- all of them of [G, tokens, width] -------------------------------------------------------------


def commit_steps(weights: FastWeights, batch: Tapes, factors: Tensor) -> FastWeights:
    """The weights after the steps of tokens, as their last one asks."""
    last = factors[-1:]  # [1, b]
    for_all = last.expand(len(batch[0].steps), 1, -1)
    return tuple(
        Affine(
            torch.baddbmm(affine.weight, (last.mT * tape.inputs).mT, tape.steps),
            torch.baddbmm(affine.bias, for_all, tape.steps),
        )
        for affine, tape in zip(weights, batch, strict=True)
    )


def gradient_steps(tokens: Tokens, weights: FastWeights, eps: float) -> Tapes:
    """The gradient step of each token, all taken at the same weights."""
    first, *later = weights
    # A copy, lest a tape keep the keys and queries of the whole call in memory.
    inputs = [tokens.keys.clone(memory_format=torch.contiguous_format)]
    outputs = [torch.baddbmm(first.bias, inputs[0], first.weight)]
    for affine in later:
        inputs.append(_gelu(outputs[-1]))
        outputs.append(torch.baddbmm(affine.bias, inputs[-1], affine.weight))
    output = outputs.pop()
    unit, mean, scale = normalised(output, eps)
    wanted = torch.addcmul(tokens.offsets, tokens.slopes, unit)
    steps = [_back_through_norm(wanted, output, mean, scale)]
    for affine, output in zip(reversed(later), reversed(outputs), strict=True):
        steps.append(_back_through_gelu(torch.bmm(steps[-1], affine.weight.mT), output))
    return tuple(Tape(*pair) for pair in zip(inputs, reversed(steps), strict=True))


def read(queries: Tensor, weights: FastWeights) -> Tensor:
    """f(queries) [G, m, d], under these very weights."""
    hidden = queries
    for depth, affine in enumerate(weights):
        hidden = _gelu(hidden) if depth else hidden
        hidden = torch.baddbmm(affine.bias, hidden, affine.weight)
    return hidden


def _read(queries: Tensor, weights: FastWeights, batch: Tapes, factors: Tensor) -> Tensor:
    """f(queries), each query seeing the steps of its own token and of those before it.

    Args:
        queries: [G, m, d] of the mini-batch's last m tokens.
        factors: [m, n] theirs.
    """
    hidden = queries
    for depth, (affine, tape) in enumerate(zip(weights, batch, strict=True)):
        hidden = _gelu(hidden) if depth else hidden
        # x @ (W - rate * sum of inputs^T steps) + (b - rate * sum of steps), sums not built
        overlap = torch.addcmul(factors, factors, torch.bmm(hidden, tape.inputs.mT))
        hidden = torch.baddbmm(affine.bias, hidden, affine.weight)
        hidden = hidden.baddbmm_(overlap, tape.steps)
    return hidden


def normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The layer norm without weight and bias, and the mean and scale it found."""
    return torch.native_layer_norm(x, x.shape[-1:], None, None, eps)


def _back_through_norm(gradient: Tensor, x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """The gradient before `normalised`.

    It can be differentiated once, as training through the inner steps does; not twice, since
    torch's second derivative takes mean and scale for constants and says nothing.
    """
    backward = torch.ops.aten.native_layer_norm_backward
    wanted = [True, False, False]
    return backward(gradient, x, x.shape[-1:], mean, scale, None, None, wanted)[0]


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _back_through_gelu(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient before `_gelu`; in float64 with the reference's shortened constants.

    They are off by 3e-9, which float32 does not see, and one operation in place of thirteen.
    """
    if x.dtype != torch.float64:
        return torch.ops.aten.gelu_backward(gradient, x, approximate="tanh")
    tanh = torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))
    slope = 0.79788456 + 0.1070322243 * x * x
    return gradient * (0.5 * x * (1 - tanh * tanh) * slope + 0.5 * (1 + tanh))
