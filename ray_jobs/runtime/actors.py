"""Work over plain Ray actors, one item at a time, each item exactly once.

`ray.util.ActorPool` loses the item of an actor that dies, and gives no retry; this keeps the item,
starts a fresh actor and tries again. An actor that has lost its GPU counts as dead: whatever it
tried later would fail as well.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_jobs.runtime.items import WorkerDied
from ray_jobs.runtime.progress import Progress
from ttt.device_errors import is_out_of_memory, lost_device_named

_DEATHS = (RayActorError, OutOfMemoryError, NodeDiedError, ObjectLostError)
"""How Ray says that a worker is gone: also by its own watch over a node's memory, with the node,
or after it answered, with the answer."""


T = TypeVar("T")


class ActorPool:
    """Actors that work through items, each item exactly once; they live until `close`.

    `start_actor()` starts one. Actors must have max_restarts=0 (Ray's default), so that a dead one
    never runs an item a second time beside its successor.
    """

    def __init__(self, start_actor: Callable[[], Any], *, attempts: int = 3) -> None:
        self._start_actor, self._attempts = start_actor, attempts
        self._everyone: list[Any] = []
        self._idle: list[Any] = []

    def prepare(self, prepare: Callable[[Any], T]) -> T:
        """Start an actor and return what `prepare(actor)` does; a dead one has one successor.

        What `prepare` raises is raised here, but for the first actor's death.
        """
        actor = self._started()
        try:
            found = prepare(actor)
        except Exception as error:
            _how_it_died(error)
            ray.kill(actor)  # an unavailable actor may still be alive
            actor = self._started()
            found = prepare(actor)
        self._idle.append(actor)
        return found

    def run(
        self,
        call: Callable[[Any, Any], ray.ObjectRef],
        items: Sequence[Any],
        *,
        actors: int,
        waiting: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
        on_replaced: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (item, result) as results come; a result is a WorkerDied after all attempts.

        Items go to the actors that are up; one that finds no place in the cluster is waited for
        beside them. `call(actor, item)` starts the work and returns its reference. An exception
        inside the work is raised here, and so is one from an actor's constructor, unless it says
        that the actor's device is lost, which is a death. `waiting()` is around the time in which
        no actor is up; `on_replaced()` is called for each that is started for a dead one.
        """
        todo, idle = deque(enumerate(items)), self._idle
        # With the deaths of its predecessors, which never came up. An actor has no work before it
        # is up: where nodes are lost, the next one may find no place while others are idle.
        starting: dict[ray.ObjectRef, tuple[Any, int]] = {}
        unborn = ""
        running: dict[ray.ObjectRef, tuple[int, Any, Any]] = {}
        deaths: Counter[int] = Counter()

        def start(died: int) -> None:
            actor = self._started()
            starting[actor.__ray_ready__.remote()] = (actor, died)

        for _ in range(min(actors, len(items)) - len(idle)):
            start(died=0)
        while todo or running:
            while todo and idle:
                place, item = todo.popleft()
                actor = idle.pop()
                running[call(actor, item)] = (place, item, actor)
            if not running and not starting:
                reason = f"its worker died {self._attempts} times while starting{unborn}"
                yield from ((item, WorkerDied(reason)) for _, item in todo)
                return
            with contextlib.nullcontext() if running else waiting():
                (finished,), _ = ray.wait([*running, *starting], num_returns=1)
            if finished in starting:
                actor, died = starting.pop(finished)
                try:
                    ray.get(finished)
                except Exception as error:
                    unborn = _how_it_died(error)
                    ray.kill(actor)
                    if died + 1 < self._attempts:
                        start(died + 1)
                        on_replaced()
                else:
                    idle.append(actor)
                continue
            place, item, actor = running.pop(finished)
            try:
                result = ray.get(finished)
            except Exception as error:
                how = _how_it_died(error)
                ray.kill(actor)  # an unavailable actor may still be alive
                start(died=0)
                on_replaced()
                deaths[place] += 1
                if deaths[place] < self._attempts:
                    # One whose device was lost waits for the others: its next worker is likelier
                    # to have another card, should it be the card.
                    (todo.append if how else todo.appendleft)((place, item))
                else:
                    yield item, WorkerDied(f"its worker died {self._attempts} times{how}")
            else:
                idle.append(actor)
                yield item, result
        for actor, _ in starting.values():
            ray.kill(actor)  # Nothing is left for it; another run starts its own.

    def close(self) -> None:
        """End every actor."""
        for actor in self._everyone:
            ray.kill(actor)

    def _started(self) -> Any:
        self._everyone.append(self._start_actor())
        return self._everyone[-1]


def over_actors(
    start_actor: Callable[[], Any],
    call: Callable[[Any, Any], ray.ObjectRef],
    items: Sequence[Any],
    *,
    actors: int,
    attempts: int = 3,
) -> Iterator[tuple[Any, Any]]:
    """What one run of an `ActorPool` yields."""
    with contextlib.closing(ActorPool(start_actor, attempts=attempts)) as pool:
        yield from pool.run(call, items, actors=actors)


def beside_driver() -> NodeAffinitySchedulingStrategy:
    """Where a small actor of the driver belongs: on its node, whatever happens to the others."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _how_it_died(error: Exception) -> str:
    """What a reason says behind "its worker died"; raises the error where no death lies behind it.

    An error travels with its text, and without those that led to it: the text has them all.
    """
    if isinstance(error, RayTaskError) or (
        isinstance(error, RayActorError) and error.actor_init_failed
    ):
        cause = getattr(error, "cause", None)
        if isinstance(cause, Exception) and is_out_of_memory(cause):
            raise error
        lost = lost_device_named(str(error))
        if lost is None:
            raise error
        return f", in the end because it lost its device: {lost}"
    if isinstance(error, _DEATHS):
        return ""
    raise error


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
