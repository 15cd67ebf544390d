"""Several inner steps for every token: a control of the inner loop, not a published layer.

Token t of a mini-batch is answered by weights that have taken k steps from where the mini-batch
started, each over its tokens up to t, each gradient taken where the step before has led:

    weights after s = weights after s - 1
                      - token_rate[t] * sum over j <= t of rate[j] * gradient[j] after s - 1

With k = 1 that is `fast_weights.scan`, where all tokens of a mini-batch share their gradients. Here
every token has its own, so that its weights are built, one token after the other: an answer costs
k times the gradients of half a mini-batch. The open mini-batch is kept as the tokens themselves,
from which its weights are built anew; so an answer depends on nothing but the weights at the
mini-batch's start and the tokens up to it, however the sequence was cut.

A mini-batch is one tape: its inputs are the keys, its steps slopes and offsets side by side.

Shapes are those of `ttt.layers.fast_weights`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ttt.layers.fast_weights import (
    Affine,
    FastWeights,
    MiniBatch,
    Tape,
    TokenRule,
    Tokens,
    commit_flat,
    flattened,
    gradient_steps,
    normalised,
    read_flat,
    unflattened,
)


def scan_steps(
    tokens: Tokens, *, weights: FastWeights, mini_batch: MiniBatch, rule: TokenRule
) -> tuple[Tensor, FastWeights, MiniBatch, list[MiniBatch]]:
    """Learn from tokens and answer their queries; takes and returns what `scan` does."""
    streams, size = tokens.queries.shape[:2], len(rule.factors)
    queries, keys, slopes, offsets = flattened(tokens)
    taught = torch.cat([slopes, offsets], dim=-1)
    moved = tuple(Affine(*flattened(affine)) for affine in weights)
    now = Tape(*flattened(mini_batch[0]))
    answers: list[Tensor] = []
    committed: list[MiniBatch] = []
    for place in range(queries.shape[1]):
        one = slice(place, place + 1)
        if now.inputs.shape[1] == size:
            moved = _after_steps(now, moved, rule)
            committed.append((Tape(*unflattened(now, streams)),))
            now = Tape(now.inputs[:, :0], now.steps[:, :0])
        now = Tape(
            torch.cat([now.inputs, keys[:, one]], dim=1),
            torch.cat([now.steps, taught[:, one]], dim=1),
        )
        answers.append(read_flat(queries[:, one], _after_steps(now, moved, rule)))
    if committed:
        weights = tuple(Affine(*unflattened(affine, streams)) for affine in moved)
    units = normalised(torch.cat(answers, dim=1), rule.eps)[0].unflatten(0, streams)
    return units, weights, (Tape(*unflattened(now, streams)),), committed


def commit_steps(weights: FastWeights, batch: MiniBatch, rule: TokenRule) -> FastWeights:
    """The weights after a whole mini-batch: those that its last token was answered by."""
    streams = weights[0].weight.shape[:2]
    moved = _after_steps(
        Tape(*flattened(batch[0])), tuple(Affine(*flattened(affine)) for affine in weights), rule
    )
    return tuple(Affine(*unflattened(affine, streams)) for affine in moved)


def no_tokens(weights: FastWeights) -> MiniBatch:
    """A mini-batch with no tokens yet."""
    first = weights[0].weight
    batch, heads, width = first.shape[:3]
    return (
        Tape(first.new_empty(batch, heads, 0, width), first.new_empty(batch, heads, 0, 2 * width)),
    )


def _after_steps(tape: Tape, weights: FastWeights, rule: TokenRule) -> FastWeights:
    """The weights after all steps over a mini-batch's tokens, as its last one asks: [G, ...]."""
    keys, (slopes, offsets) = tape.inputs, tape.steps.chunk(2, dim=-1)
    count = keys.shape[1]
    tokens, factors = Tokens(keys, keys, slopes, offsets), rule.factors[:count, :count]
    for _ in range(rule.inner_steps):
        weights = commit_flat(weights, gradient_steps(tokens, weights, rule.eps), factors)
    return weights
