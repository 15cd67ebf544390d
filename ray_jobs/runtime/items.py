"""The workers of a job that works through items: actors of Ray, or one object in this process.

    with worker_session(cluster, address, wanted=len(missing)) as session:
        with session.workers(Worker, config) as workers:
            for item, result in workers.each("measure", missing):
                record(item, result)

A worker is an object of a plain class. With `cluster.num_workers=0` it lives here and Ray is not
imported: the same records, for debuggers, notebooks and quick tests. Otherwise each is an actor,
and the item of one that dies goes to another (`ray_jobs.runtime.actors`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ray_jobs.runtime.connection import (
    ray_session,
    require_gpu_here,
    require_room,
    workers_with_room,
)
from ray_jobs.runtime.gauges import exported
from ray_jobs.runtime.progress import Progress

if TYPE_CHECKING:
    from ray_jobs.runtime.actors import ActorPool  # Ray is imported only where it runs.

Ask = Callable[..., Any]
"""ask(method, *arguments): what that method of a worker returns."""
Count = Callable[[int, int], None]
"""count(item, units): says that so many units of an item are done."""


@dataclass(frozen=True)
class WorkerDied:
    """Stands for the result of an item whose workers died every time."""

    reason: str


class ClusterSettings(Protocol):
    """The `cluster` key of a job."""

    @property
    def num_workers(self) -> int | None: ...
    @property
    def cpus_per_worker(self) -> float: ...
    @property
    def gpus_per_worker(self) -> float: ...
    @property
    def address(self) -> str | None: ...
    @property
    def local_cpus(self) -> int | None: ...


@contextmanager
def worker_session(
    cluster: ClusterSettings, address: str | None, *, wanted: int
) -> Iterator[Session]:
    """Where workers can be started, inside the block: at most `wanted` of them, at least one.

    `address` is the Ray to connect to, where the command line names one. Raises UserError when Ray
    cannot be reached or has no room for them.
    """
    if cluster.num_workers == 0:
        require_gpu_here(cluster.gpus_per_worker)
        yield HereSession()
        return
    with ray_session(address or cluster.address, cluster.local_cpus):
        each = cluster.cpus_per_worker, cluster.gpus_per_worker
        count = workers_with_room(*each) if cluster.num_workers is None else cluster.num_workers
        require_room(max(1, min(count, wanted)), *each)
        yield RaySession(cluster, count)


class HereSession:
    """Workers in this process: one."""

    @contextmanager
    def workers(self, worker: Callable[..., Any], *arguments: Any) -> Iterator[HereWorker]:
        """The worker made of `worker(*arguments)`, at its first use."""
        yield HereWorker(functools.partial(worker, *arguments))

    def exporting(
        self, progress: Progress, command: str, output: str
    ) -> AbstractContextManager[None]:
        """No gauges: they are Ray's."""
        del progress, command, output
        return nullcontext()

    @contextmanager
    def counting(self, progress: Progress, fields: Mapping[str, object]) -> Iterator[Count]:
        """Advance `progress` inside the block by what is counted, with `fields` beside it."""
        done: dict[int, int] = {}

        def count(item: int, units: int) -> None:
            progress.advance(units - done.get(item, 0), **fields)
            done[item] = units

        yield count


class HereWorker:
    """The worker in this process."""

    count = 1

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start

    @functools.cached_property
    def _worker(self) -> Any:
        return self._start()

    def prepare(self, prepare: Callable[[Ask], None], progress: Progress) -> None:
        """Let `prepare` ask the worker."""
        with progress.waiting(_LOADING):
            prepare(lambda method, *arguments: getattr(self._worker, method)(*arguments))

    def each(
        self, method: str, items: Sequence[Any], *arguments: Any, progress: Progress | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (item, method(item, *arguments)), one after the other."""
        if items and progress is not None:
            with progress.waiting(_LOADING):
                _ = self._worker
        for item in items:
            yield item, getattr(self._worker, method)(item, *arguments)


class RaySession:
    """Workers as actors of the connected Ray."""

    def __init__(self, cluster: ClusterSettings, count: int) -> None:
        self._cluster, self._count = cluster, count

    @contextmanager
    def workers(self, worker: type, *arguments: Any) -> Iterator[RayWorkers]:
        """As many actors made of `worker(*arguments)` as there is work for; they end here."""
        import ray

        from ray_jobs.runtime.actors import ActorPool

        cluster = self._cluster
        # A dead actor never comes back by itself: an item would run beside its second try.
        actor: Any = ray.remote(max_restarts=0)(worker).options(
            num_cpus=cluster.cpus_per_worker, num_gpus=cluster.gpus_per_worker
        )
        with closing(ActorPool(lambda: actor.remote(*arguments))) as pool:
            yield RayWorkers(pool, self._count)

    @contextmanager
    def exporting(self, progress: Progress, command: str, output: str) -> Iterator[None]:
        """Keep gauges of what `progress` shows inside the block, for a job of ray_jobs."""
        with exported(progress, command, output):
            yield

    @contextmanager
    def counting(self, progress: Progress, fields: Mapping[str, object]) -> Iterator[Count]:
        """Advance `progress` inside the block by what is counted, with `fields` beside it."""
        from ray_jobs.runtime.actors import RemoteCount, counted_progress

        with counted_progress(progress, fields) as counter:
            yield RemoteCount(counter)


class RayWorkers:
    """The actors."""

    def __init__(self, pool: ActorPool, count: int) -> None:
        self._pool, self.count = pool, count
        self._replaced = 0

    def prepare(self, prepare: Callable[[Ask], None], progress: Progress) -> None:
        """Let `prepare` ask an actor; where that dies, once more with its successor."""
        import ray

        def asking(actor: Any) -> None:
            prepare(lambda method, *arguments: ray.get(getattr(actor, method).remote(*arguments)))

        with progress.waiting(_LOADING):
            self._pool.prepare(asking)

    def each(
        self, method: str, items: Sequence[Any], *arguments: Any, progress: Progress | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (item, method(item, *arguments)) as results come, or a WorkerDied for a result.

        `progress` says it while none of the workers is up, which is no time of theirs, and how many
        were started in place of dead ones.
        """

        def call(actor: Any, item: Any) -> Any:
            return getattr(actor, method).remote(item, *arguments)

        def waiting() -> AbstractContextManager[None]:
            return nullcontext() if progress is None else progress.waiting(_LOADING)

        def replaced() -> None:
            self._replaced += 1
            if progress is not None:
                progress.advance(0, replaced_workers=self._replaced)

        return self._pool.run(call, items, actors=self.count, waiting=waiting, on_replaced=replaced)


_LOADING = "workers to start and load"


Session = HereSession | RaySession
Workers = HereWorker | RayWorkers
