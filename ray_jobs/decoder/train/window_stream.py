"""The micro-batches of windows of a cache of codes, as tables that any process can read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import torch

from ray_jobs.training.spans import block_size
from ray_jobs.training.stream import BatchStream, EpochBatches
from ttt.snac.cache.index import CodeCache, open_cache
from ttt.snac.geometry import CodeGeometry
from ttt.snac.train.window_reader import MicroBatch, Replacement, WindowReader
from ttt.snac.train.windows import WindowPlan, WindowShape
from ttt.training.micro_batches import BatchId


@dataclass(frozen=True, eq=False)
class WindowStream(BatchStream[MicroBatch]):
    """All that a read task needs to know to make any micro-batch of a run."""

    cache_uri: str
    reach_samples_48k: int
    seed: int
    shapes: tuple[WindowShape, ...]
    """`shapes[epoch - 1]` is the shape of an epoch's windows."""
    counted: tuple[EpochBatches, ...]
    rows: np.ndarray | None = None
    """Rows of the cache to draw from; all when None."""

    @classmethod
    def of(
        cls,
        cache: CodeCache,
        reach_samples_48k: int,
        seed: int,
        shapes: Sequence[WindowShape],
        rows: np.ndarray | None = None,
    ) -> Self:
        """The stream of a run over an open cache."""
        stream = cls(str(cache.uri), reach_samples_48k, seed, tuple(shapes), (), rows)
        plan = stream.plan(cache)
        counted = tuple(epoch_batches(shape, plan) for shape in shapes)
        return dataclasses.replace(stream, counted=counted)

    @property
    def epochs(self) -> Sequence[EpochBatches]:
        return self.counted

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

    def open(self) -> Callable[[BatchId], pa.Table]:
        cache = open_cache(self.cache_uri)
        plan = self.plan(cache)
        reader = WindowReader(cache, plan, reused_batches=max(map(block_size, self.counted)))

        def read(id: BatchId) -> pa.Table:
            return to_table(reader.read(plan.windows(self.shapes[id.epoch - 1], id), id))

        return read

    def from_table(self, id: BatchId, table: pa.Table) -> MicroBatch:
        return to_micro_batch(id, table)


def epoch_batches(shape: WindowShape, plan: WindowPlan) -> EpochBatches:
    """The micro-batches of an epoch of a plan, counted."""
    return EpochBatches(
        plan.steps(shape), shape.micro_batches_per_step, _audio_bytes(shape, plan.geometry)
    )


def _audio_bytes(shape: WindowShape, geometry: CodeGeometry) -> int:
    return 2 * shape.clips_per_micro_batch * geometry.samples_48k(shape.core_coarse)


def to_table(batch: MicroBatch) -> pa.Table:
    """A micro-batch as one row of lists; the tensors' memory is shared, not copied."""
    columns: dict[str, pa.Array] = {}
    for name in _TENSORS:
        values = pa.array(getattr(batch, name).numpy().reshape(-1))
        columns[name] = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
    columns["codes_per_coarse"] = pa.array([batch.codes.shape[2]])
    columns["clip_ids"] = pa.array([batch.clip_ids], pa.list_(pa.string()))
    replaced = [dataclasses.asdict(replacement) for replacement in batch.replaced]
    columns["replaced"] = pa.array([replaced], pa.list_(_REPLACEMENT))
    return pa.table(columns)


def to_micro_batch(id: BatchId, table: pa.Table) -> MicroBatch:
    """The inverse of `to_table`, in the table's memory."""
    clip_ids = table["clip_ids"][0].as_py()
    codes, audio, core_start, valid_samples = (
        torch.from_dlpack(table[name].combine_chunks().flatten()) for name in _TENSORS
    )
    return MicroBatch(
        id=id,
        codes=codes.view(len(clip_ids), -1, table["codes_per_coarse"][0].as_py()),
        audio=audio.view(len(clip_ids), -1),
        core_start=core_start,
        valid_samples=valid_samples,
        clip_ids=clip_ids,
        replaced=[Replacement(**fields) for fields in table["replaced"][0].as_py()],
    )


_TENSORS = ("codes", "audio", "core_start", "valid_samples")
_REPLACEMENT = pa.struct([(field.name, pa.string()) for field in dataclasses.fields(Replacement)])
