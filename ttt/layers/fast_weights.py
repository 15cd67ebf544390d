"""The small model inside a TTT layer: how it learns from tokens and answers them.

Every head of a TTT layer owns a small model f (one affine map, or two with a GELU between) that
learns from each token: a key k and a target give the loss 1/2 |LN(f(k)) - target|^2. Tokens come in
mini-batches. All gradients of a mini-batch are taken at the weights it started with, and token t
is read with the steps of the mini-batch's tokens up to t:

    weights at t = weights at start - token_rate[t] * sum over j <= t of rate[j] * gradient[j]

A mini-batch is committed, its last token's sum folded into the weights, when the next token
arrives. Until then it is kept as tapes (each map's inputs and scaled gradients), from which the
sums are formed without ever building a gradient matrix (the dual form). Cutting a tape short takes
tokens back.

Source: Sun et al., "Learning to (Learn at Test Time)", 2407.04620, sections 2.4 and 2.5.

Shapes: B streams, H heads, n tokens kept, m tokens read, i -> o the widths of one affine map.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Affine(NamedTuple):
    """One affine map of the small model."""

    weight: Tensor  # [B, H, i, o]
    bias: Tensor  # [B, H, 1, o]


class Tape(NamedTuple):
    """What one affine map took in, and how far each token wants it to step."""

    inputs: Tensor  # [B, H, n, i]
    steps: Tensor  # [B, H, n, o]: rate * gradient at the map's output


class InnerNorm(NamedTuple):
    """The layer norm between the small model and its loss, one per head."""

    weight: Tensor  # [H, 1, o]
    bias: Tensor  # [H, 1, o]
    eps: float


FastWeights = tuple[Affine, ...]
"""The small model: its affine maps, first to last."""
MiniBatch = tuple[Tape, ...]
"""The tokens of one mini-batch: a tape for each affine map."""


class TokenRule(NamedTuple):
    """What all tokens of a layer have in common."""

    token_rates: Tensor  # [b, 1] factor of the sum of steps at each place of a mini-batch
    norm: InnerNorm


def scan(
    queries: Tensor,
    keys: Tensor,
    targets: Tensor,
    rates: Tensor,
    *,
    weights: FastWeights,
    mini_batch: MiniBatch,
    rule: TokenRule,
    checkpoint_mini_batches: int = 0,
) -> tuple[Tensor, FastWeights, MiniBatch, list[MiniBatch]]:
    """Learn from tokens and answer their queries, a mini-batch at a time.

    Args:
        queries, keys, targets: [B, H, T, d], T at least 1.
        rates: [B, H, T, 1] learning rates.
        weights: at the start of the open mini-batch.
        mini_batch: the open mini-batch, 0 to b tokens.
        checkpoint_mini_batches: this many are computed anew together in the backward pass,
            which then keeps only the weights between such groups; 0 keeps everything.

    Returns:
        LN(f(queries)) [B, H, T, d], the weights and open mini-batch after the tokens, and the
        mini-batches committed on the way.
    """
    tokens, size = queries.shape[2], len(rule.token_rates)
    group = checkpoint_mini_batches * size
    if not (group and torch.is_grad_enabled()):
        return _scan(queries, keys, targets, rates, weights, mini_batch, rule)
    answers, committed = [], []
    ends = [*range(group - length(mini_batch) % size, tokens, group), tokens]
    for start, end in itertools.pairwise([0, *ends]):
        span = [each[:, :, start:end] for each in (queries, keys, targets, rates)]
        answer, weights, mini_batch, finished = cast(
            tuple[Tensor, FastWeights, MiniBatch, list[MiniBatch]],
            checkpoint(_scan, *span, weights, mini_batch, rule, use_reentrant=False),
        )
        answers.append(answer)
        committed += finished
    return torch.cat(answers, dim=2), weights, mini_batch, committed


def empty_mini_batch(weights: FastWeights) -> MiniBatch:
    """A mini-batch with no tokens yet."""
    return tuple(
        Tape(
            weight.new_empty(*weight.shape[:2], 0, weight.shape[2]),
            weight.new_empty(*weight.shape[:2], 0, weight.shape[3]),
        )
        for weight, _ in weights
    )


def length(mini_batch: MiniBatch) -> int:
    """Tokens in a mini-batch."""
    return mini_batch[0].inputs.shape[2]


def truncate(mini_batch: MiniBatch, tokens: int) -> MiniBatch:
    """The mini-batch's first tokens."""
    return tuple(Tape(tape.inputs[:, :, :tokens], tape.steps[:, :, :tokens]) for tape in mini_batch)


def commit(weights: FastWeights, batch: MiniBatch, token_rates: Tensor) -> FastWeights:
    """The weights after a whole mini-batch, with the factor of its last token."""
    token_rate = token_rates[-1]
    return tuple(
        Affine(
            affine.weight - (token_rate * tape.inputs).mT @ tape.steps,
            affine.bias - token_rate * tape.steps.sum(dim=2, keepdim=True),
        )
        for affine, tape in zip(weights, batch, strict=True)
    )


def _scan(
    queries: Tensor,
    keys: Tensor,
    targets: Tensor,
    rates: Tensor,
    weights: FastWeights,
    mini_batch: MiniBatch,
    rule: TokenRule,
) -> tuple[Tensor, FastWeights, MiniBatch, list[MiniBatch]]:
    answers, committed, start = [], [], 0
    while start < queries.shape[2]:
        if length(mini_batch) == len(rule.token_rates):
            weights = commit(weights, mini_batch, rule.token_rates)
            committed.append(mini_batch)
            mini_batch = empty_mini_batch(weights)
        first = length(mini_batch)
        now = slice(start, start + len(rule.token_rates) - first)
        steps = _inner_steps(keys[:, :, now], targets[:, :, now], rates[:, :, now], weights, rule)
        mini_batch = _extend(mini_batch, steps)
        token_rates = rule.token_rates[first : length(mini_batch)]
        answers.append(_read(queries[:, :, now], weights, mini_batch, token_rates, rule.norm))
        start = now.stop
    return torch.cat(answers, dim=2), weights, mini_batch, committed


def _extend(mini_batch: MiniBatch, tokens: MiniBatch) -> MiniBatch:
    """The mini-batch with more tokens at its end."""
    return tuple(
        Tape(torch.cat([old.inputs, new.inputs], dim=2), torch.cat([old.steps, new.steps], dim=2))
        for old, new in zip(mini_batch, tokens, strict=True)
    )


def _inner_steps(
    keys: Tensor, targets: Tensor, rates: Tensor, weights: FastWeights, rule: TokenRule
) -> MiniBatch:
    """The gradient step of each token, all taken at the same weights.

    Args:
        keys: [B, H, n, o] inputs of the small model.
        targets: [B, H, n, o] what LN(f(keys)) should be.
        rates: [B, H, n, 1] learning rate of each token.
    """
    first, *later = weights
    inputs, outputs = [keys], [keys @ first.weight + first.bias]
    for affine in later:
        inputs.append(_gelu(outputs[-1]))
        outputs.append(inputs[-1] @ affine.weight + affine.bias)
    gradients = [_loss_gradient(outputs.pop(), targets, rule.norm)]
    for affine, output in zip(reversed(later), reversed(outputs), strict=True):
        gradients.append(gradients[-1] @ affine.weight.mT * _gelu_derivative(output))
    steps = [rates * gradient for gradient in reversed(gradients)]
    return tuple(Tape(*pair) for pair in zip(inputs, steps, strict=True))


def _read(
    queries: Tensor, weights: FastWeights, batch: MiniBatch, token_rates: Tensor, norm: InnerNorm
) -> Tensor:
    """LN(f(queries)), each query seeing the steps of its own token and of those before it.

    Args:
        queries: [B, H, m, o] of the mini-batch's last m tokens.
        token_rates: [m, 1] the factor of each query's sum of steps.
    """
    newest = batch[0].inputs.shape[2] - queries.shape[2]
    hidden = queries
    for depth, (affine, tape) in enumerate(zip(weights, batch, strict=True)):
        hidden = _gelu(hidden) if depth else hidden
        # x @ (W - rate * sum of inputs^T steps) + (b - rate * sum of steps), sums not built
        overlap = (hidden @ tape.inputs.mT + 1).tril(diagonal=newest)  # [B, H, m, n]
        hidden = hidden @ affine.weight + affine.bias - token_rates * (overlap @ tape.steps)
    return norm.weight * _standardise(hidden, norm.eps)[0] + norm.bias


def _standardise(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    centred = x - x.mean(dim=-1, keepdim=True)
    std = (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    return centred / std, std


def _loss_gradient(output: Tensor, target: Tensor, norm: InnerNorm) -> Tensor:
    """d/d output of 1/2 |LN(output) - target|^2."""
    unit, std = _standardise(output, norm.eps)
    gradient = (norm.weight * unit + norm.bias - target) * norm.weight
    along_unit = unit * (gradient * unit).mean(dim=-1, keepdim=True)
    return (gradient - gradient.mean(dim=-1, keepdim=True) - along_unit) / std


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _gelu_derivative(x: Tensor) -> Tensor:
    """Derivative of `_gelu`, with the reference's shortened constants (off by 3e-9)."""
    tanh = torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))
    slope = 0.79788456 + 0.1070322243 * x * x
    return 0.5 * x * (1 - tanh * tanh) * slope + 0.5 * (1 + tanh)
