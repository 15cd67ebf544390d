"""The small model of LaCT: a SwiGLU that learns from a whole chunk of tokens at once.

Every head owns f(x) = (silu(x W1) * (x W3)) W2, without biases. A token teaches it by its key and
value through the loss -<f(k), v>, at a rate of its own for each of the three matrices. Nothing of a
chunk is seen before it is whole: its tokens are answered by the weights that it started with, and
then each matrix is moved once, by all of them:

    step      = -sum over tokens of rate * gradient, all taken at the weights of the chunk's start
    velocity  = step + momentum * velocity      (the mean of the tokens' momenta; 0: plain steps)
    W         = rescaled(W + velocity)

`rescaled` brings what leads to one output back to the norm that it had before anything was heard.
The authors' other rule for the step, Muon, is left out: docs/decisions.md says why.

Source: Zhang et al., "Test-Time Training Done Right", 2505.23884, and the authors' code,
a1600012888/LaCT at 1f84d47 (`block_causal_lact_swiglu`; its matrices lie transposed, and its w0, w1
and w2 are W1, W2 and W3).

Shapes: B streams, H heads, G = B * H, n tokens kept, m tokens asked, d the width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ttt.layers.inner_loop import InnerLoop


class Matrix(NamedTuple):
    """One matrix of the small model."""

    weight: Tensor  # [B, H, d, d]
    velocity: Tensor  # [B, H, d, d]; without momentum [B, H, 0, d]


class Taught(NamedTuple):
    """What is kept of a chunk's tokens until they are learnt from."""

    keys: Tensor  # [B, H, n, d]
    values: Tensor  # [B, H, n, d]
    rates: Tensor  # [B, H, n, 3] for W1, W2, W3; with momentum a fourth, the token's momentum


SwiGLU = tuple[Matrix, Matrix, Matrix]
"""W1, W2, W3."""
Chunk = tuple[Taught]


class Tokens(NamedTuple):
    """What the small model is asked and taught, [B, H, T, ...]."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    rates: Tensor


@dataclass(frozen=True, eq=False)
class ChunkSteps(InnerLoop):
    """One step for each chunk, or several over the same one."""

    initial: tuple[Tensor, Tensor, Tensor]
    """W1, W2, W3 [H, d, d] before anything is heard, whose norms are kept."""
    chunk: int
    momentum: bool
    sign: float = 1.0
    """-1: steps go the other way; 0: none is taken."""
    inner_steps: int = 1
    """Steps over each chunk, each gradient taken where the step before has led."""

    @property
    def size(self) -> int:
        """Tokens of a whole chunk."""
        return self.chunk

    def no_tokens(self, weights: SwiGLU) -> Chunk:
        """A chunk with no tokens yet."""
        first = weights[0].weight
        widths = (first.shape[-1], first.shape[-1], 4 if self.momentum else 3)
        return (Taught(*(first.new_empty(*first.shape[:2], 0, width) for width in widths)),)

    def kept(self, tokens: Tokens, weights: SwiGLU) -> Chunk:
        """Copies of what the tokens teach."""
        whole = torch.contiguous_format
        return (Taught(*(each.clone(memory_format=whole) for each in tokens[1:])),)

    def answer(self, tokens: Tokens, weights: SwiGLU, batch: Chunk) -> Tensor:
        """f(queries) by the weights of the chunk's start."""
        into, out, beside = (each.weight for each in weights)
        gate = F.silu(torch.bmm(tokens.queries, into))
        return torch.bmm(gate * torch.bmm(tokens.queries, beside), out)

    def commit(self, weights: SwiGLU, batch: Chunk) -> SwiGLU:
        """The weights moved by a whole chunk."""
        if self.sign == 0:
            return weights
        streams = len(weights[0].weight) // len(self.initial[0])
        norms = [each.norm(dim=-2, keepdim=True).repeat(streams, 1, 1) for each in self.initial]
        momentum = batch[0].rates[..., 3:].mean(dim=1, keepdim=True) if self.momentum else None
        for _ in range(self.inner_steps):
            steps = _steps(weights, batch[0])
            first, second, third = (
                self._moved(*each, momentum) for each in zip(weights, steps, norms, strict=True)
            )
            weights = first, second, third
        return weights

    def _moved(self, matrix: Matrix, step: Tensor, norm: Tensor, momentum: Tensor | None) -> Matrix:
        velocity = step
        if momentum is not None:
            velocity = torch.addcmul(step, momentum, matrix.velocity)
        moved = torch.add(matrix.weight, velocity, alpha=self.sign)
        weight = moved * (norm / (moved.norm(dim=-2, keepdim=True) + _NORM_EPS))
        return Matrix(weight, matrix.velocity if momentum is None else velocity)


def _steps(weights: SwiGLU, taught: Taught) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens' steps for W1, W2 and W3 [G, d, d], summed: rates times minus gradients."""
    into, out, beside = (each.weight for each in weights)
    keys, values, rates = taught
    before_gate = torch.bmm(keys, into)
    up = torch.bmm(keys, beside)
    share = before_gate.sigmoid()
    gate = before_gate * share
    # What minus the loss gains by each hidden value, and by both of its factors.
    gain = torch.bmm(values, out.mT)
    slope = torch.addcmul(share, gate, 1 - share)  # of silu
    return (
        torch.bmm(keys.mT, rates[..., 0:1] * gain * up * slope),
        torch.bmm((gate * up).mT, rates[..., 1:2] * values),
        torch.bmm(keys.mT, rates[..., 2:3] * gain * gate),
    )


_NORM_EPS = 1e-5
