"""Ours in this process: exact reads placed by the cache's index."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.clips import Clips
from benchmarks.peers.loaders.protocol import CORE_COARSE, Batch, Order, Stream, link_files
from ray_jobs.decoder.train.window_stream import WindowStream
from ttt.snac.cache.index import open_cache
from ttt.snac.train.window_reader import LocalWindowSource, MicroBatch, WindowReader
from ttt.snac.train.windows import WindowShape

REACH_SAMPLES = 14_000
READ, WARM = 1, 2
"""The epoch that is measured, and the one whose first step starts Ray's worker processes."""


class InProcess:
    """One thread that reads ahead in the loop's own process; no workers."""

    def write(self, clips: Clips, folder: Path) -> None:
        """Ours are the files that the plain ones were made of, beside them."""
        link_files(clips.folder.with_name("cache"), folder / "cache")

    @contextlib.contextmanager
    def open(self, folder: Path, order: Order, state: Any = None) -> Iterator[Stream]:
        stream = our_stream(folder, order)
        cache = open_cache(stream.cache_uri)
        plan = stream.plan(cache)
        # As many batches as the source reads ahead, the one in use and the one being filled.
        reader = WindowReader(cache, plan, reused_batches=4)
        yield OurStream(LocalWindowSource(reader, plan, stream.shapes), stream, state)


class OurStream:
    """An epoch from a step on; the state is that step, which is all that a checkpoint keeps."""

    def __init__(self, source: Any, stream: WindowStream, state: Any) -> None:
        self._source = source
        self._stream = stream
        self._step = 0 if state is None else state["step"]
        self._delivered: MicroBatch | None = None

    def __iter__(self) -> Iterator[Batch]:
        for batches in self._source.step_batches(READ, self._step):
            (batch,) = batches
            self._delivered = batch
            self._step += 1
            yield Batch(batch.clip_ids, batch.codes, batch.audio)

    def starts(self, batch: Batch) -> list[int]:
        assert self._delivered is not None
        assert self._delivered.id is not None
        plan = self._stream.plan(open_cache(self._stream.cache_uri))
        windows = plan.windows(self._stream.shapes[READ - 1], self._delivered.id)
        return (windows.slice_start + windows.core_start).tolist()

    def state(self) -> Any:
        return {"step": self._step}


def our_stream(folder: Path, order: Order) -> WindowStream:
    """The plan of an epoch to measure and of one to start with, over the cache in a folder."""
    cache = open_cache(str(folder / "cache"))
    shape = WindowShape(
        core_coarse=CORE_COARSE,
        context_coarse=0,
        clips_per_micro_batch=order.batch,
        micro_batches_per_step=1,
    )
    rows = np.resize(np.arange(len(cache)), len(cache) * order.repeats)
    shapes = tuple(itertools.repeat(shape, WARM))
    return WindowStream.of(cache, REACH_SAMPLES, order.seed, shapes, rows)
