"""The micro-batches of one worker, read in its own process by one thread ahead of the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from ttt.training.micro_batches import BatchId, rank_micro_batches

Batch = TypeVar("Batch")

_STEPS_AHEAD = 2


@dataclass(frozen=True)
class EpochSize:
    """The micro-batches of an epoch, counted."""

    steps: int
    micro_batches_per_step: int


class LocalSource(Generic[Batch]):
    """Reads each micro-batch with a function that is given."""

    def __init__(
        self,
        read: Callable[[BatchId], Batch],
        epochs: Sequence[EpochSize],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`epochs[number - 1]` of the whole run."""
        self._read = read
        self._epochs = epochs
        self._rank = rank
        self._world_size = world_size

    def step_batches(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """This rank's micro-batches of every step of an epoch, from `first_step` on."""
        pending: deque[Future[list[Batch]]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            for step in range(first_step, self._epochs[epoch - 1].steps):
                pending.append(pool.submit(self._read_step, epoch, step))
                if len(pending) > _STEPS_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _read_step(self, epoch: int, step: int) -> list[Batch]:
        per_step = self._epochs[epoch - 1].micro_batches_per_step
        micros = rank_micro_batches(self._rank, self._world_size, per_step)
        return [self._read(BatchId(epoch, step, micro)) for micro in micros]
