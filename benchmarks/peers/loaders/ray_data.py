"""Ours through Ray Data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from benchmarks.peers.loaders.ours import WARM, InProcess, OurStream, our_stream
from benchmarks.peers.loaders.protocol import Order, Stream
from ray_jobs.runtime.connection import ray_session
from ray_jobs.training.ray_source import RayBatchSource, batch_dataset, start_cursor


class ThroughRay(InProcess):
    """Ray Data's tasks on as many CPUs as there are workers; a Ray lives as long as its process.

    `open` has read a step before, so that Ray's workers run when the epoch starts.
    """

    def __init__(self) -> None:
        self._session = contextlib.ExitStack()

    @contextlib.contextmanager
    def open(self, folder: Path, order: Order, state: Any = None) -> Iterator[Stream]:
        stream = our_stream(folder, order)
        self._session.enter_context(ray_session(None, order.workers))
        cursor = start_cursor(stream)
        source = RayBatchSource(
            batch_dataset(cursor).iterator(),
            cursor,
            stream,
            span_micro_batches=stream.counted[0].steps,
        )
        next(source.step_batches(WARM))
        yield OurStream(source, stream, state)
        ray.kill(ray.get_actor(cursor))
