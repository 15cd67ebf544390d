"""How the driver and the first worker of a training hear of each other.

A 0-CPU actor stands between them: the worker leaves where it is and asks whether to stop; the
driver shows the progress and, on SIGTERM, leaves the request. Both sides speak to it from a thread
once a second, so that no step waits for it. Both say all they know each time, so an actor that
was killed and started again soon knows it, too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from ray_jobs.runtime.progress import Progress, ticking
from ray_jobs.training.run import Position

logger = logging.getLogger(__name__)

_INTERVAL_SECONDS = 1.0


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Monitor:
    """The last position and the request to stop."""

    def __init__(self) -> None:
        self._position: Position | None = None
        self._stop = False

    def exchange(self, position: Position | None) -> bool:
        """The worker's side: leave a position, learn whether to stop."""
        self._position = position
        return self._stop

    def look(self, stop: bool) -> Position | None:
        """The driver's side: ask to stop (once asked, always), learn the position."""
        self._stop = self._stop or stop
        return self._position


class MonitorClient:
    """The worker's side."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor
        self._position: Position | None = None
        self.stop_requested = False

    def move_to(self, position: Position) -> None:
        """Leave a position for the next time the thread speaks."""
        self._position = position

    @contextmanager
    def connected(self) -> Iterator[MonitorClient]:
        """Speak to the monitor from a thread inside the block."""
        with _every_second(self._exchange):
            yield self

    def _exchange(self) -> None:
        if ray.get(self._monitor.exchange.remote(self._position)):
            self.stop_requested = True


@contextmanager
def watched(monitor: Any, progress: Progress, done: int, stop: threading.Event) -> Iterator[None]:
    """The driver's side: show positions and pass on `stop` inside the block.

    Until the first position the workers are waited for.
    """
    shown = done

    def look() -> None:
        nonlocal shown
        position: Position | None = ray.get(monitor.look.remote(stop.is_set()))
        if position is None:
            return
        starting.close()
        if position.step != shown:
            # After a restart the count may fall back to the checkpoint's.
            progress.advance(position.step - shown, **position.fields())
            shown = position.step

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
