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

A GPU waits for the machine to hand it one operation after the other, so they are few: a product
takes its sum along (`baddbmm`), and whatever needs no weights is made for all tokens of a call at
once, before the mini-batches and after them. `python -m benchmarks.launches chunk` counts.

Shapes: B streams, H heads, G = B * H, n tokens kept, m tokens read, b tokens of a whole
mini-batch, i -> o the widths of one affine map, d the width of a head.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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


FastWeights = tuple[Affine, ...]
"""The small model: its affine maps, first to last."""
MiniBatch = tuple[Tape, ...]
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


class TokenRule(NamedTuple):
    """What all tokens of a layer have in common."""

    factors: Tensor
    """[b, b] minus the token rate of the row's token, for the steps of those up to it; else 0."""
    eps: float
    """Of the layer norm between the small model and its loss."""
    inner_steps: int = 1
    """Steps over a mini-batch's tokens for each answer; more than one: `ttt.layers.inner_steps`."""


def scan(
    tokens: Tokens,
    *,
    weights: FastWeights,
    mini_batch: MiniBatch,
    rule: TokenRule,
    checkpoint_mini_batches: int = 0,
) -> tuple[Tensor, FastWeights, MiniBatch, list[MiniBatch]]:
    """Learn from tokens and answer their queries, a mini-batch at a time.

    Args:
        weights: at the start of the open mini-batch.
        mini_batch: the open mini-batch, 0 to b tokens.
        checkpoint_mini_batches: this many are computed anew together in the backward pass,
            which then keeps only the weights between such groups; 0 keeps everything.

    Returns:
        f(queries) [B, H, T, d] as the layer norm leaves it before its weight and bias, the weights
        and open mini-batch after the tokens, and the mini-batches committed on the way.
    """
    streams, size = tokens.queries.shape[:2], len(rule.factors)
    flat = Tokens(*flattened(tokens))
    moved = tuple(Affine(*flattened(affine)) for affine in weights)
    mini_batch = tuple(Tape(*flattened(tape)) for tape in mini_batch)
    group = checkpoint_mini_batches * size
    if group and torch.is_grad_enabled():
        answers, committed = [], []
        ends = range(group - mini_batch[0].inputs.shape[1] % size, flat.keys.shape[1], group)
        for start, end in itertools.pairwise([0, *ends, flat.keys.shape[1]]):
            span = Tokens(*(each[:, start:end] for each in flat))
            answer, moved, mini_batch, finished = cast(
                tuple[list[Tensor], FastWeights, MiniBatch, list[MiniBatch]],
                checkpoint(_scan, span, moved, mini_batch, rule, use_reentrant=False),
            )
            answers += answer
            committed += finished
    else:
        answers, moved, mini_batch, committed = _scan(flat, moved, mini_batch, rule)
    outputs = torch.cat(answers, dim=1) if len(answers) > 1 else answers[0]
    if committed:  # Else they are the weights given, and a mark that keeps them costs nothing.
        weights = tuple(Affine(*unflattened(affine, streams)) for affine in moved)
    return (
        normalised(outputs, rule.eps)[0].unflatten(0, streams),
        weights,
        _unflattened_tapes(mini_batch, streams),
        [_unflattened_tapes(each, streams) for each in committed],
    )


def length(mini_batch: MiniBatch) -> int:
    """Tokens in a mini-batch."""
    return mini_batch[0].inputs.shape[2]


def truncate(mini_batch: MiniBatch, tokens: int) -> MiniBatch:
    """The mini-batch's first tokens."""
    return tuple(Tape(tape.inputs[:, :, :tokens], tape.steps[:, :, :tokens]) for tape in mini_batch)


def commit(weights: FastWeights, batch: MiniBatch, factors: Tensor) -> FastWeights:
    """The weights after a whole mini-batch, moved as its last token is."""
    streams = weights[0].weight.shape[:2]
    moved = commit_flat(
        tuple(Affine(*flattened(affine)) for affine in weights),
        tuple(Tape(*flattened(tape)) for tape in batch),
        factors,
    )
    return tuple(Affine(*unflattened(affine, streams)) for affine in moved)


# -- streams and heads as one dimension: [G, tokens, width] ----------------------------------------


def _scan(
    tokens: Tokens, weights: FastWeights, mini_batch: MiniBatch, rule: TokenRule
) -> tuple[list[Tensor], FastWeights, MiniBatch, list[MiniBatch]]:
    size, count = len(rule.factors), tokens.keys.shape[1]
    answers, committed, last = [], [], mini_batch[0].inputs.shape[1]
    ends = [*range(size - last % size, count, size), count]
    lengths = [end - start for start, end in itertools.pairwise([0, *ends])]
    for fields in zip(*(each.split(lengths, dim=1) for each in tokens), strict=True):
        now = Tokens(*fields)
        first = last % size
        if last == size:
            weights = commit_flat(weights, mini_batch, rule.factors)
            committed.append(mini_batch)
        steps = gradient_steps(now, weights, rule.eps)
        mini_batch = _extended(mini_batch, steps) if first else steps
        last = first + now.keys.shape[1]
        answers.append(_read(now.queries, weights, mini_batch, rule.factors[first:last, :last]))
    return answers, weights, mini_batch, committed


def commit_flat(weights: FastWeights, batch: MiniBatch, factors: Tensor) -> FastWeights:
    """`commit` of [G, ...]."""
    last = factors[-1:]  # [1, b]
    for_all = last.expand(len(batch[0].steps), 1, -1)
    return tuple(
        Affine(
            torch.baddbmm(affine.weight, (last.mT * tape.inputs).mT, tape.steps),
            torch.baddbmm(affine.bias, for_all, tape.steps),
        )
        for affine, tape in zip(weights, batch, strict=True)
    )


def _extended(mini_batch: MiniBatch, tokens: MiniBatch) -> MiniBatch:
    """The mini-batch with more tokens at its end."""
    return tuple(
        Tape(torch.cat([old.inputs, new.inputs], dim=1), torch.cat([old.steps, new.steps], dim=1))
        for old, new in zip(mini_batch, tokens, strict=True)
    )


def gradient_steps(tokens: Tokens, weights: FastWeights, eps: float) -> MiniBatch:
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


def read_flat(queries: Tensor, weights: FastWeights) -> Tensor:
    """f(queries) [G, m, d], under these very weights."""
    hidden = queries
    for depth, affine in enumerate(weights):
        hidden = _gelu(hidden) if depth else hidden
        hidden = torch.baddbmm(affine.bias, hidden, affine.weight)
    return hidden


def _read(queries: Tensor, weights: FastWeights, batch: MiniBatch, factors: Tensor) -> Tensor:
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


def flattened(tensors: Sequence[Tensor]) -> list[Tensor]:
    """[B, H, ...] as [G, ...]."""
    return [tensor.flatten(0, 1) for tensor in tensors]


def unflattened(tensors: Sequence[Tensor], streams: torch.Size) -> list[Tensor]:
    """[G, ...] as [B, H, ...]."""
    return [tensor.unflatten(0, streams) for tensor in tensors]


def _unflattened_tapes(batch: MiniBatch, streams: torch.Size) -> MiniBatch:
    return tuple(Tape(*unflattened(tape, streams)) for tape in batch)
