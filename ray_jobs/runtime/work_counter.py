"""Progress within items: workers count clips or frames in one small actor, the driver shows them.

A shard of 1,000 clips takes minutes on a CPU and a chapter longer; without this, a log would say
nothing meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.actor import ActorHandle

from ray_jobs.runtime.actors import beside_driver
from ray_jobs.runtime.progress import Progress


class WorkCounter:
    """The actor: how many units of each item are done. An item done again starts again."""

    def __init__(self) -> None:
        self._done: dict[int, int] = {}

    def count(self, item: int, units: int) -> None:
        """Say that `units` of `item` are done."""
        self._done[item] = units

    def total(self) -> int:
        """Units done in all items."""
        return sum(self._done.values())


class RemoteCount:
    """count(item, units), told to the actor; it travels to workers."""

    def __init__(self, counter: ActorHandle) -> None:
        self._counter: Any = counter

    def __call__(self, item: int, units: int) -> None:
        self._counter.count.remote(item, units)


@contextmanager
def counted_progress(
    progress: Progress, fields: Mapping[str, object], poll_seconds: float = 1.0
) -> Iterator[ActorHandle]:
    """Advance `progress` inside the block by what is counted in the actor that it yields.

    `fields` are shown beside it, as they are at the time.
    """
    options = {"num_cpus": 0, "scheduling_strategy": beside_driver()}
    counter: Any = ray.remote(WorkCounter).options(**options).remote()
    stop = threading.Event()

    def follow() -> None:
        shown = 0
        while True:
            stopping = stop.wait(poll_seconds)
            total: int = ray.get(counter.total.remote())
            progress.advance(total - shown, **fields)
            shown = total
            if stopping:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield counter
    finally:
        stop.set()
        thread.join()
        ray.kill(counter)
