"""Stream the micro-batches of a window plan through Ray Data, in the plan's order.

A read task makes a block of ready micro-batches (`spans`), so whole clips never enter the object
store and a resumed run gets exactly the batches that an uninterrupted one would. What to read next
is set by an explicit Cursor, not by counting executions. Ray promises no order, so the consumer
checks every batch against the plan and stops loudly when one is out of place.

    cursor = start_cursor(spec)                               # on the driver
    TorchTrainer(..., datasets={"train": lambda: window_dataset(cursor)},
                 dataset_config=window_data_config())
    source = RayWindowSource(get_dataset_shard("train"), cursor, plan, spec.shapes, rank, world)
    for batches in source.step_batches(epoch, first_step): ...                # in each worker

Read tasks need a whole CPU beside the Train workers on each node that reads, or wait for ever.
"""

from __future__ import annotations

import dataclasses
import functools
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.train
import torch
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from ray_jobs.decoder.train.spans import (
    SPAN_MICRO_BATCHES,
    Span,
    Spans,
    block_size,
    blocks_of,
)
from ray_jobs.runtime.actors import beside_driver
from ray_jobs.runtime.read_ahead import queue_read_tasks
from ttt.snac.cache.index import CodeCache, open_cache
from ttt.snac.train.window_reader import MicroBatch, Replacement, WindowReader
from ttt.snac.train.windows import WindowPlan, WindowShape
from ttt.training.micro_batches import BatchId, rank_micro_batches

if TYPE_CHECKING:
    from ray.data.context import DataContext


@dataclass(frozen=True, eq=False)
class WindowSpec:
    """All that a read task needs to know to make any micro-batch of a run."""

    cache_uri: str
    reach_samples_48k: int
    seed: int
    shapes: tuple[WindowShape, ...]
    """`shapes[epoch - 1]` is the shape of an epoch's windows."""
    rows: np.ndarray | None = None
    """Rows of the cache to draw from; all when None."""

    def plan(self, cache: CodeCache) -> WindowPlan:
        """The plan of the run over an open cache."""
        return WindowPlan(
            cache.catalogue.n_coarse,
            cache.catalogue.n_samples,
            cache.geometry,
            self.reach_samples_48k,
            self.seed,
            self.rows,
        )


class Cursor:
    """Says which spans the next execution reads; an actor that takes no CPU (`start_cursor`)."""

    def __init__(self, spec: WindowSpec) -> None:
        self._spec = spec
        self._spans: Sequence[Span] = [Span(1, 0, 1)]

    def spec(self) -> WindowSpec:
        """What the run reads."""
        return self._spec

    def spans(self) -> Sequence[Span]:
        """The spans that were set last."""
        return self._spans

    def set_spans(self, spans: Sequence[Span]) -> None:
        """Let the next execution read `spans`, one after the other."""
        self._spans = spans


def start_cursor(spec: WindowSpec) -> str:
    """Start a run's Cursor and return its name; it lives as long as the calling driver."""
    name = f"window-cursor-{uuid.uuid4().hex}"
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Cursor)
    options = {"name": name, "scheduling_strategy": beside_driver()}
    _kept_cursors.append(actor.options(**options).remote(spec))
    _ask(name, "spans")
    return name


_kept_cursors: list[object] = []
"""An actor ends with its last handle."""


def _ask(cursor: str, method: str, *arguments: object) -> Any:
    return ray.get(getattr(ray.get_actor(cursor), method).remote(*arguments))


def window_dataset(cursor: str) -> ray.data.Dataset:
    """The micro-batches of the spans that the cursor names when an iteration starts, in order."""
    dataset = ray.data.read_datasource(WindowDatasource(cursor), override_num_blocks=1)
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    queue_read_tasks(dataset.context)
    return dataset


def window_data_config() -> ray.train.DataConfig:
    """How Ray Train must split a `window_dataset`: in order, rank r of W gets r, r + W, ..."""
    options = ray.train.DataConfig.default_ingest_options()
    options.preserve_order = True
    return ray.train.DataConfig(execution_options=options, enable_shard_locality=False)


class WindowDatasource(Datasource):
    """One read task per block of the cursor's spans.

    `get_read_tasks` is called several times for one execution, also only to size it, and must
    give the same answer each time.
    """

    def __init__(self, cursor: str) -> None:
        super().__init__()
        self._cursor = cursor

    def get_name(self) -> str:
        return "Windows"

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
        shapes = _spec(self._cursor).shapes
        return [
            ReadTask(functools.partial(_read_block, self._cursor, block), _rows(len(block)))
            for span in spans
            for block in blocks_of(span, shapes[span.epoch - 1].micro_batches_per_step)
        ]


def _rows(count: int) -> BlockMetadata:
    return BlockMetadata(num_rows=count, size_bytes=None, exec_stats=None, input_files=None)


class RayWindowSource:
    """The micro-batches of one worker, made by Ray Data's tasks on any node."""

    def __init__(
        self,
        batches: ray.data.DataIterator,
        cursor: str,
        plan: WindowPlan,
        shapes: Sequence[WindowShape],
        rank: int = 0,
        world_size: int = 1,
        span_micro_batches: int = SPAN_MICRO_BATCHES,
    ) -> None:
        """`batches` is this rank's share of a `window_dataset`: of `world_size` equal ones."""
        self._batches = batches
        self._cursor = cursor
        self._spans = Spans(plan, shapes, world_size, span_micro_batches)
        self._shapes = shapes
        self._rank = rank
        self._world_size = world_size
        self._arriving: Iterator[MicroBatch] = iter(())
        self._ahead: MicroBatch | None = None
        self._following: list[Span] = []

    def step_batches(self, epoch: int, first_step: int = 0) -> Iterator[list[MicroBatch]]:
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
            if self._ahead and self._ahead.id not in self._first_ids(following):
                raise RuntimeError(
                    f"Ray Data sent {self._ahead.id} after the span's last micro-batch"
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

    def _execute(self) -> Iterator[MicroBatch]:
        tables: Any = self._batches.iter_batches(
            batch_size=None,  # pyright: ignore[reportArgumentType]  # whole blocks, as documented
            batch_format="pyarrow",
            prefetch_batches=_PREFETCHED_BATCHES,
        )
        for table in tables:
            for row in range(len(table)):
                yield to_micro_batch(table.slice(row, 1))

    def _checked(self, wanted: BatchId) -> MicroBatch:
        batch, self._ahead = self._ahead or next(self._arriving, None), None
        if batch is None or batch.id != wanted:
            raise RuntimeError(
                f"Ray Data sent {batch and batch.id} where the plan has {wanted}; "
                "the order is not the plan's, so this run could not be resumed exactly"
            )
        return batch

    def _first_ids(self, spans: Sequence[Span]) -> list[BatchId]:
        return [self._batch_ids(span.epoch, span.first_step)[0] for span in spans[:1]]

    def _batch_ids(self, epoch: int, step: int) -> list[BatchId]:
        per_step = self._shapes[epoch - 1].micro_batches_per_step
        micros = rank_micro_batches(self._rank, self._world_size, per_step)
        return [BatchId(epoch, step, micro) for micro in micros]


_PREFETCHED_BATCHES = 2


# -- read tasks ------------------------------------------------------------------------------------


def _read_block(cursor: str, block: list[BatchId]) -> list[pa.Table]:
    shape = _spec(cursor).shapes[block[0].epoch - 1]
    plan, reader = _plan_and_reader(cursor)
    rows = [to_table(reader.read(plan.windows(shape, batch), batch)) for batch in block]
    # One table: Ray would copy small ones row by row into a block of its own.
    return [pa.concat_tables(rows)]


@functools.cache
def _spec(cursor: str) -> WindowSpec:
    return _ask(cursor, "spec")


@functools.cache
def _plan_and_reader(cursor: str) -> tuple[WindowPlan, WindowReader]:
    # Once per worker process: opening maps the index, and the epoch's order is kept.
    spec = _spec(cursor)
    cache = open_cache(spec.cache_uri)
    plan = spec.plan(cache)
    most = max(block_size(shape, plan.geometry) for shape in spec.shapes)
    return plan, WindowReader(cache, plan, reused_batches=most)


# -- one micro-batch as a table of one row ---------------------------------------------------------


def to_table(batch: MicroBatch) -> pa.Table:
    """A micro-batch as one row of lists; the tensors' memory is shared, not copied."""
    assert batch.id is not None
    columns: dict[str, pa.Array] = {
        name: pa.array([value]) for name, value in dataclasses.asdict(batch.id).items()
    }
    for name in _TENSORS:
        values = pa.array(getattr(batch, name).numpy().reshape(-1))
        columns[name] = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
    columns["codes_per_coarse"] = pa.array([batch.codes.shape[2]])
    columns["clip_ids"] = pa.array([batch.clip_ids], pa.list_(pa.string()))
    replaced = [dataclasses.asdict(replacement) for replacement in batch.replaced]
    columns["replaced"] = pa.array([replaced], pa.list_(_REPLACEMENT))
    return pa.table(columns)


def to_micro_batch(table: pa.Table) -> MicroBatch:
    """The inverse of `to_table`, in the table's memory."""
    clip_ids = table["clip_ids"][0].as_py()
    codes, audio, core_start, valid_samples = (
        torch.from_dlpack(table[name].combine_chunks().flatten()) for name in _TENSORS
    )
    return MicroBatch(
        id=BatchId(*(table[field.name][0].as_py() for field in dataclasses.fields(BatchId))),
        codes=codes.view(len(clip_ids), -1, table["codes_per_coarse"][0].as_py()),
        audio=audio.view(len(clip_ids), -1),
        core_start=core_start,
        valid_samples=valid_samples,
        clip_ids=clip_ids,
        replaced=[Replacement(**fields) for fields in table["replaced"][0].as_py()],
    )


_TENSORS = ("codes", "audio", "core_start", "valid_samples")
_REPLACEMENT = pa.struct([(field.name, pa.string()) for field in dataclasses.fields(Replacement)])
