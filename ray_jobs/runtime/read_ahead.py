"""How far Ray Data may read ahead of the training loop.

Ray Data's own policy starts a read task only when a CPU is free. Our read tasks take a few
milliseconds, so the CPUs would wait for its scheduling loop between them: half the windows per
second at twice the driver's time (benchmarks/data_path.py). Here some tasks always queue, and
what has been read and not yet consumed is bounded by the object store memory that Ray Data may
use (a quarter of it).

Uses Ray's developer interface for policies, which is why the version of Ray is pinned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
)
from ray.data._internal.execution.backpressure_policy.backpressure_policy import (
    BackpressurePolicy,
)

if TYPE_CHECKING:
    from ray.data._internal.execution.interfaces.physical_operator import PhysicalOperator
    from ray.data.context import DataContext

QUEUED_TASKS = 14
"""Read tasks that wait beside those that run."""


def queue_read_tasks(context: DataContext) -> None:
    """Make the dataset of `context` read ahead as described above, instead of Ray's way."""
    context.op_resource_reservation_enabled = False
    # Otherwise every task starts a thread that watches its memory, an eighth of the task's time.
    context.memory_usage_poll_interval_s = None
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [ReadAhead])


class ReadAhead(BackpressurePolicy):
    """Bounds the tasks under way by CPUs and the batches not yet consumed by bytes."""

    def can_add_input(self, op: PhysicalOperator) -> bool:
        limits = self._resource_manager.get_global_limits()
        used_bytes = self._resource_manager.get_op_usage(op).object_store_memory
        return (
            op.num_active_tasks() < limits.cpu + QUEUED_TASKS
            and used_bytes < limits.object_store_memory
        )
