"""The micro-batches of windows of a cache of chapters, as tables that any process can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from ray_jobs.training.stream import BatchStream, EpochBatches
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.moshi.chapter_cache.windows import ChapterWindowPlan, ChapterWindowShape, read_windows
from ttt.moshi.training.config import WindowStageConfig
from ttt.moshi.training.staged_windows import StagedWindows
from ttt.moshi.training.trainee import WindowBatch
from ttt.training.micro_batches import BatchId


@dataclass(frozen=True, eq=False)
class ChapterStream(BatchStream[WindowBatch]):
    """All that a read task needs to know to make any micro-batch of a run."""

    cache_uri: str
    rows: np.ndarray
    """Rows of the cache to draw from."""
    seed: int
    stages: tuple[WindowStageConfig, ...]
    shapes: tuple[ChapterWindowShape, ...]
    """`shapes[number - 1]` is the shape of a stage's windows."""
    text: bool
    """Whether the cached text comes along."""

    @property
    def epochs(self) -> Sequence[EpochBatches]:
        bytes_per_frame = 2 * _CODEBOOKS + (4 if self.text else 0)
        return [
            EpochBatches(
                stage.steps,
                shape.micro_batches_per_step,
                shape.windows_per_micro_batch * shape.frames * bytes_per_frame,
            )
            for stage, shape in zip(self.stages, self.shapes, strict=True)
        ]

    def windows(self, cache: ChapterCache) -> StagedWindows:
        """The windows of the run over an open cache.

        Raises UserError when no chapter is as long as a stage's window.
        """
        plan = ChapterWindowPlan(cache.n_frames, self.seed, self.rows)
        return StagedWindows(plan, self.stages, self.shapes)

    def reader(self) -> Callable[[BatchId], WindowBatch]:
        """Open the cache; returns what reads a micro-batch."""
        cache = ChapterCache.open(self.cache_uri)
        windows = self.windows(cache)

        def read_batch(id: BatchId) -> WindowBatch:
            return WindowBatch.of(
                read_windows(cache, windows.windows(id), id, text=self.text), cache
            )

        return read_batch

    def open(self) -> Callable[[BatchId], pa.Table]:
        read = self.reader()
        return lambda id: to_table(read(id))

    def from_table(self, id: BatchId, table: pa.Table) -> WindowBatch:
        return to_window_batch(table)


_CODEBOOKS = 8


def to_table(batch: WindowBatch) -> pa.Table:
    """A micro-batch as one row of lists."""
    by_frame = batch.codes.transpose(1, 2).contiguous()
    columns = {
        "ids": pa.array([list(batch.ids)], pa.list_(pa.string())),
        "frames": _row(batch.counted.sum(dim=1)),
        "codebooks": pa.array([batch.codes.shape[1]]),
        "codes": _row(by_frame),
    }
    if batch.text is not None:
        columns["text"] = _row(batch.text)
    return pa.table(columns)


def to_window_batch(table: pa.Table) -> WindowBatch:
    """The inverse of `to_table`, in the table's memory."""
    ids = table["ids"][0].as_py()
    codebooks = table["codebooks"][0].as_py()
    codes = _tensor(table, "codes").view(len(ids), -1, codebooks)
    places = torch.arange(codes.shape[1])
    text = _tensor(table, "text") if "text" in table.column_names else None
    return WindowBatch(
        ids,
        codes.transpose(1, 2),
        places < _tensor(table, "frames")[:, None],
        None if text is None else text.view(len(ids), -1),
    )


def _row(values: torch.Tensor) -> pa.Array:
    flat = pa.array(values.reshape(-1).numpy())
    return pa.ListArray.from_arrays(pa.array([0, len(flat)], pa.int32()), flat)


def _tensor(table: pa.Table, name: str) -> torch.Tensor:
    return torch.from_dlpack(table[name].combine_chunks().flatten())
