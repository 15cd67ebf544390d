"""Several inner steps for every token: a control of the inner loop, not a published layer.

Token t of a mini-batch is answered by weights that have taken k steps from where the mini-batch
started, each over its tokens up to t, each gradient taken where the step before has led:

    weights after s = weights after s - 1
                      - token_rate[t] * sum over j <= t of rate[j] * gradient[j] after s - 1

With k = 1 that is `fast_weights.DualForm`, where all tokens of a mini-batch share their gradients.
Here every token has its own, so that its weights are built, one token after the other: an answer
costs k times the gradients of half a mini-batch. The open mini-batch is kept as the tokens
themselves, from which its weights are built anew; so an answer depends on nothing but the weights
at the mini-batch's start and the tokens up to it, however the sequence was cut.

A mini-batch is one tape: its inputs are the keys, its steps slopes and offsets side by side.

Shapes are those of `ttt.layers.fast_weights`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ttt.layers.fast_weights import (
    FastWeights,
    Tape,
    Tapes,
    Tokens,
    commit_steps,
    gradient_steps,
    read,
)
from ttt.layers.inner_loop import InnerLoop


@dataclass(frozen=True, eq=False)
class SeveralSteps(InnerLoop):
    """`inner_steps` gradient steps for each answer."""

    factors: Tensor
    eps: float
    inner_steps: int
    one_by_one = True

    @property
    def size(self) -> int:
        """Tokens of a whole mini-batch."""
        return len(self.factors)

    def no_tokens(self, weights: FastWeights) -> Tapes:
        """A tape of keys, slopes and offsets."""
        first = weights[0].weight
        batch, heads, width = first.shape[:3]
        keys, taught = (first.new_empty(batch, heads, 0, n * width) for n in (1, 2))
        return (Tape(keys, taught),)

    def kept(self, tokens: Tokens, weights: FastWeights) -> Tapes:
        """The tokens themselves, but for their queries."""
        taught = torch.cat([tokens.slopes, tokens.offsets], dim=-1)
        return (Tape(tokens.keys.clone(memory_format=torch.contiguous_format), taught),)

    def answer(self, tokens: Tokens, weights: FastWeights, batch: Tapes) -> Tensor:
        """f(query) of one token, the mini-batch's last."""
        return read(tokens.queries, self.commit(weights, batch))

    def commit(self, weights: FastWeights, batch: Tapes) -> FastWeights:
        """The weights after all steps over a mini-batch's tokens, as its last one asks."""
        keys, (slopes, offsets) = batch[0].inputs, batch[0].steps.chunk(2, dim=-1)
        count = keys.shape[1]
        tokens, factors = Tokens(keys, keys, slopes, offsets), self.factors[:count, :count]
        for _ in range(self.inner_steps):
            weights = commit_steps(weights, gradient_steps(tokens, weights, self.eps), factors)
        return weights
