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

    `call(actor, item)` starts the work and returns its reference. An exception inside the work is
    raised here; so is one from an actor's constructor. Actors must have max_restarts=0 (Ray's
    default), so that a dead one never runs an item a second time beside its successor.
    """
    waiting = deque(enumerate(items))
    idle = [start_actor() for _ in range(min(actors, len(items)))]
    everyone = list(idle)
    running: dict[ray.ObjectRef, tuple[int, Any, Any]] = {}
    deaths: Counter[int] = Counter()
    try:
        while waiting or running:
            while waiting and idle:
                place, item = waiting.popleft()
                actor = idle.pop()
                running[call(actor, item)] = (place, item, actor)
            (finished,), _ = ray.wait(list(running), num_returns=1)
            place, item, actor = running.pop(finished)
            try:
                result = ray.get(finished)
            except _DEATHS as error:
                if isinstance(error, RayActorError) and error.actor_init_failed:
                    raise
                ray.kill(actor)  # an unavailable actor may still be alive
                idle.append(start_actor())
                everyone.append(idle[-1])
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


def beside_driver() -> NodeAffinitySchedulingStrategy:
    """Where a small actor of the driver belongs: on its node, whatever happens to the others."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
