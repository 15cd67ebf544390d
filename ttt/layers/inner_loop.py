"""How a layer's small model hears tokens, whatever it is: mini-batch by mini-batch, cut anywhere.

A mini-batch is committed, what was learnt from it folded into the weights, when the next token
arrives. Until then it is kept in some form from which the commit can be made, so that cutting that
form short takes tokens back. What the weights are, what is kept of a token and how a query is
answered is for the loops that derive from `InnerLoop`: see `fast_weights`, `inner_steps`, `swiglu`.

Weights and mini-batches are tuples of named tuples of tensors. Outside they are [B, H, ...], B
streams and H heads; a loop works on [G, ...], G = B * H. Tokens lie in the dimension after these.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Weights = tuple[Any, ...]
"""The small model: named tuples of tensors, one for each of its maps."""
MiniBatch = tuple[Any, ...]
"""The tokens of one mini-batch: named tuples of tensors, the same number in each."""
Part = TypeVar("Part", bound=tuple[Tensor, ...])


class Heard(NamedTuple):
    """What came of hearing tokens."""

    answers: Tensor
    """[B, H, T, d]."""
    weights: Weights
    """At the start of the open mini-batch, after the tokens."""
    open: MiniBatch
    committed: list[MiniBatch]
    """The mini-batches committed on the way."""


class InnerLoop(ABC):
    """How weights are moved by tokens and answer them."""

    one_by_one = False
    """Whether every token needs an answer of its own, after those before it were kept."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Tokens of a whole mini-batch."""

    @abstractmethod
    def no_tokens(self, weights: Weights) -> MiniBatch:
        """A mini-batch with no tokens yet, [B, H, ...] as the weights are."""

    @abstractmethod
    def kept(self, tokens: Any, weights: Weights) -> MiniBatch:
        """What is kept of tokens of the open mini-batch; nothing else stays alive with it."""

    @abstractmethod
    def answer(self, tokens: Any, weights: Weights, batch: MiniBatch) -> Tensor:
        """What the tokens' queries [G, m, d] are answered, the last m of the mini-batch."""

    @abstractmethod
    def commit(self, weights: Weights, batch: MiniBatch) -> Weights:
        """The weights after a whole mini-batch."""

    def hear(
        self, tokens: Any, weights: Weights, batch: MiniBatch, checkpoint_mini_batches: int = 0
    ) -> Heard:
        """Learn from tokens and answer their queries, a mini-batch at a time.

        Args:
            tokens: a named tuple of [B, H, T, width], T at least 1.
            weights: at the start of the open mini-batch.
            batch: the open mini-batch, empty to whole.
            checkpoint_mini_batches: this many are computed anew together in the backward pass,
                which then keeps only the weights between such groups; 0 keeps everything.
        """
        streams = weights[0][0].shape[:2]
        flat = flattened(tokens)
        count = flat[0].shape[1]
        moved = tuple(flattened(each) for each in weights)
        batch = tuple(flattened(each) for each in batch)
        group = checkpoint_mini_batches * self.size
        if group and torch.is_grad_enabled():
            answers, committed = [], []
            ends = range(group - batch[0][0].shape[1] % self.size, count, group)
            for start, end in itertools.pairwise([0, *ends, count]):
                span = _of_same_kind(flat, [each[:, start:end] for each in flat])
                answer, moved, batch, finished = cast(
                    tuple[list[Tensor], Weights, MiniBatch, list[MiniBatch]],
                    checkpoint(self._hear, span, moved, batch, use_reentrant=False),
                )
                answers += answer
                committed += finished
        else:
            answers, moved, batch, committed = self._hear(flat, moved, batch)
        if committed:  # Else they are the weights given, and a mark that keeps them costs nothing.
            weights = tuple(unflattened(each, streams) for each in moved)
        return Heard(
            (torch.cat(answers, dim=1) if len(answers) > 1 else answers[0]).unflatten(0, streams),
            weights,
            tuple(unflattened(each, streams) for each in batch),
            [tuple(unflattened(part, streams) for part in each) for each in committed],
        )

    def committed(self, weights: Weights, batch: MiniBatch) -> Weights:
        """`commit` of [B, H, ...]."""
        streams = weights[0][0].shape[:2]
        flat = (tuple(flattened(each) for each in parts) for parts in (weights, batch))
        return tuple(unflattened(each, streams) for each in self.commit(*flat))

    def _hear(
        self, tokens: Any, weights: Weights, batch: MiniBatch
    ) -> tuple[list[Tensor], Weights, MiniBatch, list[MiniBatch]]:
        size, count = self.size, tokens[0].shape[1]
        answers, committed, last = [], [], batch[0][0].shape[1]
        ends = range(1, count) if self.one_by_one else range(size - last % size, count, size)
        lengths = [end - start for start, end in itertools.pairwise([0, *ends, count])]
        for fields in zip(*(each.split(lengths, dim=1) for each in tokens), strict=True):
            now = _of_same_kind(tokens, fields)
            if last == size:
                weights = self.commit(weights, batch)
                committed.append(batch)
                last = 0
            kept = self.kept(now, weights)
            batch = _extended(batch, kept) if last else kept
            last += fields[0].shape[1]
            answers.append(self.answer(now, weights, batch))
        return answers, weights, batch, committed


def length(batch: MiniBatch) -> int:
    """Tokens in a mini-batch [B, H, ...]."""
    return batch[0][0].shape[2]


def truncate(batch: MiniBatch, tokens: int) -> MiniBatch:
    """The first tokens of a mini-batch [B, H, ...]."""
    return tuple(_of_same_kind(part, [each[:, :, :tokens] for each in part]) for part in batch)


def flattened(part: Part) -> Part:
    """[B, H, ...] as [G, ...]."""
    return _of_same_kind(part, [tensor.flatten(0, 1) for tensor in part])


def unflattened(part: Part, streams: torch.Size) -> Part:
    """[G, ...] as [B, H, ...]."""
    return _of_same_kind(part, [tensor.unflatten(0, streams) for tensor in part])


def _extended(batch: MiniBatch, more: MiniBatch) -> MiniBatch:
    """The mini-batch [G, ...] with more tokens at its end."""
    return tuple(
        _of_same_kind(old, [torch.cat(pair, dim=1) for pair in zip(old, new, strict=True)])
        for old, new in zip(batch, more, strict=True)
    )


def _of_same_kind(part: Part, tensors: Sequence[Tensor]) -> Part:
    return type(part)(*tensors)
