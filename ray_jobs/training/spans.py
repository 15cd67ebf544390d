"""Which micro-batches Ray Data reads at once, in one task and in one execution, and in what order.

A task makes a block: consecutive micro-batches of one rank, `BLOCK_BYTES` of them. A span is a
stretch of an epoch, cut into blocks; an execution reads one span or several.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ray_jobs.training.stream import EpochBatches
from ttt.training.micro_batches import BatchId, rank_micro_batches

SPAN_MICRO_BATCHES = 4096
"""Micro-batches of an execution, about: many short epochs, or a part of a long one."""

BLOCK_BYTES = 12 * 2**20
"""Bytes that a read task makes at most, if more than one micro-batch."""

ROUND_BYTES = 128 * 2**20
"""Bytes of a block for each rank at most: Ray holds one for each before it hands the first out."""


@dataclass(frozen=True)
class Span:
    """Consecutive steps of one epoch: `first_step` up to, not including, `end_step`."""

    epoch: int
    first_step: int
    end_step: int
    world_size: int = 1
    """Ranks that share it."""
    block: int = 1
    """Micro-batches of one rank that a read task makes."""


class Spans:
    """The spans of a run whose micro-batches `world_size` ranks share."""

    def __init__(
        self, epochs: Sequence[EpochBatches], world_size: int, span_micro_batches: int
    ) -> None:
        """`epochs[number - 1]` of the whole run."""
        self._epochs = epochs
        self._world_size = world_size
        self._span_micro_batches = span_micro_batches

    def of_epoch(self, epoch: int, first_step: int = 0) -> Iterator[Span]:
        """An epoch from `first_step` on, in spans."""
        batches = self._epochs[epoch - 1]
        span_steps = max(1, self._span_micro_batches // batches.micro_batches_per_step)
        block = block_size(batches, self._world_size)
        for start in range(first_step, batches.steps, span_steps):
            end = min(start + span_steps, batches.steps)
            yield Span(epoch, start, end, self._world_size, block)

    def read_at_once(self, first: Span) -> list[Span]:
        """The spans, also of later epochs, that an execution reads which begins with `first`."""
        spans, micro_batches = [], 0
        later = (self.of_epoch(epoch) for epoch in range(first.epoch + 1, len(self._epochs) + 1))
        rest = self.of_epoch(first.epoch, first.end_step)
        for span in itertools.chain([first], rest, itertools.chain.from_iterable(later)):
            per_step = self._epochs[span.epoch - 1].micro_batches_per_step
            micro_batches += (span.end_step - span.first_step) * per_step
            if spans and micro_batches > self._span_micro_batches:
                break
            spans.append(span)
        return spans


def blocks_of(span: Span, micro_batches_per_step: int) -> list[list[BatchId]]:
    """The micro-batches of a span in blocks: one of rank 0, one of rank 1, ..., and so on in turn.

    Ray's equal split hands each block to the rank that has the fewest rows. All ranks have as many
    rows in a span and in each turn, so it cuts none, and rank r of W gets blocks r, r + W, ...
    """
    shares = [
        [
            BatchId(span.epoch, step, micro)
            for step in range(span.first_step, span.end_step)
            for micro in rank_micro_batches(rank, span.world_size, micro_batches_per_step)
        ]
        for rank in range(span.world_size)
    ]
    return [
        share[first : first + span.block]
        for first in range(0, len(shares[0]), span.block)
        for share in shares
    ]


def block_size(batches: EpochBatches, world_size: int = 1) -> int:
    """Micro-batches of a block, by `BLOCK_BYTES` and `ROUND_BYTES`; at least one."""
    return max(1, min(BLOCK_BYTES, ROUND_BYTES // world_size) // batches.micro_batch_bytes)
