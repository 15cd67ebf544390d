"""How the driver and the first worker of a training hear of each other.

A 0-CPU actor stands between them: the worker leaves where it is and what it has to say, and asks
whether to stop; the driver shows both and, on SIGTERM, leaves the request. Both sides speak to it
from a thread once a second, so that no step waits for it. Both say all they know each time, so an
actor that was killed and started again soon knows it, too.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from ray_jobs.runtime.gauges import Gauges
from ray_jobs.runtime.progress import Progress, ticking
from ray_jobs.training.position import Position

logger = logging.getLogger(__name__)

_INTERVAL_SECONDS = 1.0


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Monitor:
    """The last position, what the worker said and the request to stop."""

    def __init__(self) -> None:
        self._worker = ""
        self._position: Position | None = None
        self._said: tuple[str, ...] = ()
        self._stop = False

    def exchange(self, worker: str, position: Position | None, said: tuple[str, ...]) -> bool:
        """The worker's side: leave its name, a position and all it said so far, learn whether to
        stop."""
        self._worker, self._position, self._said = worker, position, said
        return self._stop

    def look(self, stop: bool) -> tuple[str, Position | None, tuple[str, ...]]:
        """The driver's side: ask to stop (once asked, always), learn what the worker left."""
        self._stop = self._stop or stop
        return self._worker, self._position, self._said


class MonitorClient:
    """The worker's side."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor
        self._name = uuid.uuid4().hex
        self._position: Position | None = None
        self._said: tuple[str, ...] = ()
        self.stop_requested = False

    def move_to(self, position: Position) -> None:
        """Leave a position for the next time the thread speaks."""
        self._position = position

    def say(self, sentence: str) -> None:
        """Have the driver print a sentence, once."""
        self._said += (sentence,)

    @contextmanager
    def connected(self) -> Iterator[MonitorClient]:
        """Speak to the monitor from a thread inside the block."""
        with _every_second(self._exchange):
            yield self

    def _exchange(self) -> None:
        if ray.get(self._monitor.exchange.remote(self._name, self._position, self._said)):
            self.stop_requested = True


@contextmanager
def watched(
    monitor: Any, progress: Progress, gauges: Gauges, done: int, stop: threading.Event
) -> Iterator[None]:
    """The driver's side: show positions and sentences and pass on `stop` inside the block.

    Until the first position the workers are waited for. Another first worker means that all were
    started anew.
    """
    shown, printed, heard, replaced = done, set[str](), "", 0

    def look() -> None:
        nonlocal shown, heard, replaced
        position: Position | None
        worker, position, said = ray.get(monitor.look.remote(stop.is_set()))
        for sentence in said:
            if sentence not in printed:
                progress.say(sentence)
                printed.add(sentence)
        if position is None:
            return
        starting.close()
        if heard not in ("", worker):
            replaced += 1
            progress.advance(0, replaced_workers=replaced)
        heard = worker
        if position.step != shown:
            # After a restart the count may fall back to the checkpoint's.
            progress.advance(position.step - shown, **position.fields())
            shown = position.step
        with gauges.faults_logged():  # What is shown must not keep SIGTERM from the worker.
            gauges.show(position.measured)

    with ExitStack() as starting:
        starting.enter_context(progress.waiting("train workers to start and load"))
        with _every_second(look):
            yield


@contextmanager
def _every_second(call: Callable[[], None]) -> Iterator[None]:
    """Make `call` once a second inside the block and once more at its end; none that fails ends
    it, or the others."""
    warned = False

    def attempt() -> None:
        nonlocal warned
        try:
            call()
        except RayError as error:
            if not warned:
                logger.warning("progress and SIGTERM do not reach the other side: %s", error)
            warned = True

    with ticking(attempt, _INTERVAL_SECONDS):
        yield
    attempt()
