"""Work over plain Ray actors, one item at a time, each item exactly once.

`ray.util.ActorPool` loses the item of an actor that dies, and gives no retry; this keeps the item,
starts a fresh actor and tries again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_DEATHS = (RayActorError, OutOfMemoryError, NodeDiedError, ObjectLostError)
"""How Ray says that a worker is gone: also by its own watch over a node's memory, with the node,
or after it answered, with the answer."""


@dataclass(frozen=True)
class WorkerDied:
    """Stands for the result of an item whose workers died every time."""

    reason: str


def over_actors(
    start_actor: Callable[[], Any],
    call: Callable[[Any, Any], ray.ObjectRef],
    items: Sequence[Any],
    *,
    actors: int,
    attempts: int = 3,
) -> Iterator[tuple[Any, Any]]:
    """Yield (item, result) as results come; a result is a WorkerDied after `attempts` deaths.

    Items go to the actors that are up; one that finds no place in the cluster is waited for beside
    them.

    `call(actor, item)` starts the work and returns its reference. An exception inside the work is
    raised here; so is one from an actor's constructor. Actors must have max_restarts=0 (Ray's
    default), so that a dead one never runs an item a second time beside its successor.
    """
    waiting = deque(enumerate(items))
    idle: list[Any] = []
    everyone: list[Any] = []
    # With the deaths of its predecessors, which never came up. An actor has no work before it is
    # up: where nodes are lost, the next one may find no place while others are idle.
    starting: dict[ray.ObjectRef, tuple[Any, int]] = {}
    running: dict[ray.ObjectRef, tuple[int, Any, Any]] = {}
    deaths: Counter[int] = Counter()

    def start(died: int) -> None:
        everyone.append(start_actor())
        starting[everyone[-1].__ray_ready__.remote()] = (everyone[-1], died)

    try:
        for _ in range(min(actors, len(items))):
            start(died=0)
        while waiting or running:
            while waiting and idle:
                place, item = waiting.popleft()
                actor = idle.pop()
                running[call(actor, item)] = (place, item, actor)
            if not running and not starting:
                reason = f"its worker died {attempts} times while starting"
                yield from ((item, WorkerDied(reason)) for _, item in waiting)
                return
            (finished,), _ = ray.wait([*running, *starting], num_returns=1)
            if finished in starting:
                actor, died = starting.pop(finished)
                try:
                    ray.get(finished)
                except _DEATHS as error:
                    if isinstance(error, RayActorError) and error.actor_init_failed:
                        raise
                    ray.kill(actor)
                    if died + 1 < attempts:
                        start(died + 1)
                else:
                    idle.append(actor)
                continue
            place, item, actor = running.pop(finished)
            try:
                result = ray.get(finished)
            except _DEATHS:
                ray.kill(actor)  # an unavailable actor may still be alive
                start(died=0)
                deaths[place] += 1
                if deaths[place] < attempts:
                    waiting.appendleft((place, item))
                else:
                    yield item, WorkerDied(f"its worker died {attempts} times")
            else:
                idle.append(actor)
                yield item, result
    finally:
        for actor in everyone:
            ray.kill(actor)


def prepared_actor(start_actor: Callable[[], Any], prepare: Callable[[Any], object]) -> Any:
    """An actor on which `prepare(actor)` has come to its end; a dead one has one successor.

    What `prepare` raises is raised here, but for the first actor's death.
    """
    actor = start_actor()
    try:
        prepare(actor)
    except _DEATHS as error:
        if isinstance(error, RayActorError) and error.actor_init_failed:
            raise
        ray.kill(actor)  # an unavailable actor may still be alive
        actor = start_actor()
        prepare(actor)
    return actor


def beside_driver() -> NodeAffinitySchedulingStrategy:
    """Where a small actor of the driver belongs: on its node, whatever happens to the others."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
