"""The checkpoint that answers a notice that a node is to be taken away.

Ray Train hears of nodes that are drained, as spot machines are before they go. It ends all workers
at the deadline and starts them again where there is room; it does not save. So the first worker
saves as soon as it hears of it, and only the steps after that are trained twice. Such an end counts
into no limit of failures, as long as Ray sees it for what it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import ray
from ray.exceptions import RayError
from ray.train import PreemptionInfo
from ray.train.v2._internal.execution.context import get_train_context

from ray_jobs.runtime.cli import find_user_error
from ttt.training.hooks import Hook
from ttt.training.state import TrainState

logger = logging.getLogger(__name__)

_HELD_SECONDS = 60.0
"""Ray hears of a killed node's end within fifteen; what is still held then is another error."""


def heard_by_this_worker() -> PreemptionInfo | None:
    """What Ray Train told this worker of its run's nodes that are to be taken away; None so far.

    `ray.train.get_preemption_info()` lets all ranks wait for each other at every call, to agree on
    what is read here. Here the loop agrees: it shares the first rank's wish to save with the others
    in a sum that each step has anyway.
    """
    return get_train_context().preemption_context.preemption_info


class PreemptionNotices(Hook):
    """Wants one checkpoint for each node that is to be taken away, and says when it is written."""

    def __init__(
        self,
        say: Callable[[str], None],
        heard: Callable[[], PreemptionInfo | None] = heard_by_this_worker,
    ) -> None:
        """`heard` gives all the nodes of which a notice has come."""
        self._say = say
        self._heard = heard
        self._answered: set[str] = set()

    def unanswered(self) -> bool:
        """Whether a notice has come after which nothing was saved."""
        info = self._heard()
        return info is not None and not self._answered.issuperset(info.preempted_node_ids)

    def on_checkpoint(self, state: TrainState, folder: str) -> None:
        """A checkpoint is an answer, whatever it was written for."""
        info = self._heard()
        if info is None:
            return
        for node in info.preempted_node_ids:
            if node not in self._answered:
                self._answered.add(node)
                self._say(
                    f"node {_shown(node)} is to be taken away, {_deadline(info)}: step "
                    f"{state.step} is saved"
                )


@contextmanager
def errors_held_after_a_notice(
    heard: Callable[[], PreemptionInfo | None] = heard_by_this_worker,
    hold: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Log what is raised in the block when a node is to be taken away, and hold it back for a
    minute; Ray ends this process meanwhile.

    Where the node goes, the connections of the others break at once, and Ray hears of it seconds
    later. What they raise in between would count as a failure of the run, and so it does, a minute
    late, when it is nothing that came of the node and the node's deadline is not over by then.
    `hold` waits for so many seconds.
    """
    try:
        yield
    except Exception as error:
        if heard() is not None and find_user_error(error) is None:
            logger.warning(
                "this error is held back for %.0f s, since a node is to be taken away and may be "
                "its cause",
                _HELD_SECONDS,
                exc_info=True,
            )
            hold(_HELD_SECONDS)
        raise


def _shown(node: str) -> str:
    """A node's address and the beginning of its number."""
    try:
        nodes = ray.nodes()
    except RayError:  # where Ray's own store is out of reach: no reason to end the training
        nodes = []
    addresses = {each["NodeID"]: each["NodeManagerAddress"] for each in nodes}
    return f"{addresses.get(node, 'of unknown address')} ({node[:8]})"


def _deadline(info: PreemptionInfo) -> str:
    if info.deadline_ms is None:
        return "without a deadline"
    return f"{datetime.fromtimestamp(info.deadline_ms / 1000, UTC):deadline %Y-%m-%d %H:%M:%S} UTC"
