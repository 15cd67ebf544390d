"""A run's micro-batches, as tasks on any node make them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import pyarrow as pa

from ttt.training.local_source import EpochSize
from ttt.training.micro_batches import BatchId

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class EpochBatches(EpochSize):
    """The micro-batches of an epoch, counted and weighed."""

    micro_batch_bytes: int
    """About as much a micro-batch takes as a table."""


class BatchStream(ABC, Generic[Batch]):
    """Says which micro-batches there are, reads any of them, and brings them over as tables.

    It is pickled and goes to every process that reads.
    """

    @property
    @abstractmethod
    def epochs(self) -> Sequence[EpochBatches]:
        """`epochs[number - 1]` of the whole run."""

    @abstractmethod
    def open(self) -> Callable[[BatchId], pa.Table]:
        """Open what the batches are read from; returns what reads one as a table of one row.

        Called once in a process.
        """

    @abstractmethod
    def from_table(self, id: BatchId, table: pa.Table) -> Batch:
        """The batch of a table that `open` has read, in the table's memory."""
