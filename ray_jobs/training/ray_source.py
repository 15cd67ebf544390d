"""Stream the micro-batches of a run through Ray Data, in the plan's order.

A read task makes a block of ready micro-batches (`spans`), so what is cached never enters the
object store whole and a resumed run gets exactly the batches that an uninterrupted one would. What
to read next is set by an explicit Cursor, not by counting executions. Ray promises no order, so the
consumer checks every batch against the plan and stops loudly when one is out of place.

    cursor = start_cursor(stream)                               # on the driver
    TorchTrainer(..., datasets={"train": lambda: batch_dataset(cursor)},
                 dataset_config=batch_data_config())
    source = RayBatchSource(get_dataset_shard("train"), cursor, stream, rank, world)
    for batches in source.step_batches(epoch, first_step): ...                # in each worker

Read tasks need a whole CPU beside the Train workers on each node that reads, or wait for ever.
"""

from __future__ import annotations

import dataclasses
import functools
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pyarrow as pa
import ray
import ray.data
import ray.train
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from ray_jobs.runtime.actors import beside_driver
from ray_jobs.runtime.read_ahead import queue_read_tasks
from ray_jobs.training.spans import SPAN_MICRO_BATCHES, Span, Spans, blocks_of
from ray_jobs.training.stream import BatchStream
from ttt.training.micro_batches import BatchId, rank_micro_batches

if TYPE_CHECKING:
    from ray.data.context import DataContext

Batch = TypeVar("Batch")


class Cursor:
    """Says which spans the next execution reads; an actor that takes no CPU (`start_cursor`)."""

    def __init__(self, stream: BatchStream[Any]) -> None:
        self._stream = stream
        self._spans: Sequence[Span] = [Span(1, 0, 1)]

    def stream(self) -> BatchStream[Any]:
        """What the run reads."""
        return self._stream

    def spans(self) -> Sequence[Span]:
        """The spans that were set last."""
        return self._spans

    def set_spans(self, spans: Sequence[Span]) -> None:
        """Let the next execution read `spans`, one after the other."""
        self._spans = spans


def start_cursor(stream: BatchStream[Any]) -> str:
    """Start a run's Cursor and return its name; it lives as long as the calling driver."""
    name = f"batch-cursor-{uuid.uuid4().hex}"
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Cursor)
    options = {"name": name, "scheduling_strategy": beside_driver()}
    _kept_cursors.append(actor.options(**options).remote(stream))
    _ask(name, "spans")
    return name


_kept_cursors: list[object] = []
"""An actor ends with its last handle."""


def _ask(cursor: str, method: str, *arguments: object) -> Any:
    return ray.get(getattr(ray.get_actor(cursor), method).remote(*arguments))


def batch_dataset(cursor: str) -> ray.data.Dataset:
    """The micro-batches of the spans that the cursor names when an iteration starts, in order."""
    dataset = ray.data.read_datasource(BatchDatasource(cursor), override_num_blocks=1)
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    queue_read_tasks(dataset.context)
    return dataset


def batch_data_config() -> ray.train.DataConfig:
    """How Ray Train must split a `batch_dataset`: in order, rank r of W gets r, r + W, ..."""
    options = ray.train.DataConfig.default_ingest_options()
    options.preserve_order = True
    return ray.train.DataConfig(execution_options=options, enable_shard_locality=False)


class BatchDatasource(Datasource):
    """One read task per block of the cursor's spans.

    `get_read_tasks` is called several times for one execution, also only to size it, and must
    give the same answer each time.
    """

    def __init__(self, cursor: str) -> None:
        super().__init__()
        self._cursor = cursor

    def get_name(self) -> str:
        return "Batches"

    def estimate_inmemory_data_size(self) -> int | None:
        # With an estimate Ray would cut batches into more blocks than there are.
        return None

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        spans: Sequence[Span] = _ask(self._cursor, "spans")
        epochs = _stream(self._cursor).epochs
        return [
            ReadTask(functools.partial(_read_block, self._cursor, block), _rows(len(block)))
            for span in spans
            for block in blocks_of(span, epochs[span.epoch - 1].micro_batches_per_step)
        ]


def _rows(count: int) -> BlockMetadata:
    return BlockMetadata(num_rows=count, size_bytes=None, exec_stats=None, input_files=None)


class RayBatchSource(Generic[Batch]):
    """The micro-batches of one worker, made by Ray Data's tasks on any node."""

    def __init__(
        self,
        batches: ray.data.DataIterator,
        cursor: str,
        stream: BatchStream[Batch],
        rank: int = 0,
        world_size: int = 1,
        span_micro_batches: int = SPAN_MICRO_BATCHES,
    ) -> None:
        """`batches` is this rank's share of a `batch_dataset`: of `world_size` equal ones."""
        self._batches = batches
        self._cursor = cursor
        self._stream = stream
        self._spans = Spans(stream.epochs, world_size, span_micro_batches)
        self._rank = rank
        self._world_size = world_size
        self._arriving: Iterator[pa.Table] = iter(())
        self._ahead: pa.Table | None = None
        self._following: list[Span] = []

    def step_batches(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """This rank's micro-batches of every step of an epoch, from `first_step` on.

        An execution reads on into the next epoch, whose first step need not wait for a new one.
        All ranks must iterate together. The tensors lie in Ray's object store: do not write to
        them. Raises RuntimeError when a batch is not the plan's next one.
        """
        for span in self._spans.of_epoch(epoch, first_step):
            following = self._read_from(span)
            for step in range(span.first_step, span.end_step):
                batches = [self._checked(id) for id in self._batch_ids(epoch, step)]
                try:
                    yield batches
                except GeneratorExit:
                    self._arriving = iter(())  # Ends the execution, which nobody will go on with.
                    raise
            self._ahead = next(self._arriving, None)
            if self._ahead and _id_of(self._ahead) not in self._first_ids(following):
                raise RuntimeError(
                    f"Ray Data sent {_id_of(self._ahead)} after the span's last micro-batch"
                )
            self._following = following

    def _read_from(self, span: Span) -> list[Span]:
        """Let `span` be what arrives next; returns the spans that the execution reads after it."""
        following, self._following = self._following, []  # The caller may leave before the end.
        if following[:1] != [span]:
            following = self._spans.read_at_once(span)
            # An execution starts when every rank has asked for it, so rank 0 sets spans in time.
            if self._rank == 0:
                _ask(self._cursor, "set_spans", following)
            self._arriving, self._ahead = self._execute(), None
        return following[1:]

    def _execute(self) -> Iterator[pa.Table]:
        tables: Any = self._batches.iter_batches(
            batch_size=None,  # pyright: ignore[reportArgumentType]  # whole blocks, as documented
            batch_format="pyarrow",
            prefetch_batches=_PREFETCHED_BATCHES,
        )
        for table in tables:
            for row in range(len(table)):
                yield table.slice(row, 1)

    def _checked(self, wanted: BatchId) -> Batch:
        table, self._ahead = self._ahead or next(self._arriving, None), None
        sent = None if table is None else _id_of(table)
        if table is None or sent != wanted:
            raise RuntimeError(
                f"Ray Data sent {sent} where the plan has {wanted}; "
                "the order is not the plan's, so this run could not be resumed exactly"
            )
        return self._stream.from_table(wanted, table)

    def _first_ids(self, spans: Sequence[Span]) -> list[BatchId]:
        return [self._batch_ids(span.epoch, span.first_step)[0] for span in spans[:1]]

    def _batch_ids(self, epoch: int, step: int) -> list[BatchId]:
        per_step = self._stream.epochs[epoch - 1].micro_batches_per_step
        micros = rank_micro_batches(self._rank, self._world_size, per_step)
        return [BatchId(epoch, step, micro) for micro in micros]


_PREFETCHED_BATCHES = 2


# -- read tasks ------------------------------------------------------------------------------------


def _read_block(cursor: str, block: list[BatchId]) -> list[pa.Table]:
    read = _reader(cursor)
    # One table: Ray would copy small ones row by row into a block of its own.
    return [pa.concat_tables([named(id, read(id)) for id in block])]


@functools.cache
def _stream(cursor: str) -> BatchStream[Any]:
    return _ask(cursor, "stream")


@functools.cache
def _reader(cursor: str) -> Callable[[BatchId], pa.Table]:
    # Once per worker process: opening maps an index, and an epoch's order is kept.
    return _stream(cursor).open()


# -- which micro-batch a table is ------------------------------------------------------------------

_ID_COLUMNS = {field.name: f"batch.{field.name}" for field in dataclasses.fields(BatchId)}


def named(id: BatchId, table: pa.Table) -> pa.Table:
    """A table of one row that says which micro-batch it is."""
    for name, column in _ID_COLUMNS.items():
        table = table.append_column(column, pa.array([getattr(id, name)]))
    return table


def _id_of(table: pa.Table) -> BatchId:
    return BatchId(**{name: table[column][0].as_py() for name, column in _ID_COLUMNS.items()})
