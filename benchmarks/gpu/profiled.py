"""A piece of work as the device is asked for it: kernels, their time, and the clock's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.cases import Case, Quantity

ROUNDS = 5

Work = Callable[[], AbstractContextManager[Callable[[], object]]]
"""Opens what the work needs, and gives the work."""


def profiled_case(bench: Bench, title: str, name: str, work: Work) -> Case:
    """Kernels against the launches counted under `name`, their time against the bytes', and the
    time by the clock against the longer of launches and bytes."""
    counted = bench.counted(name)
    moving, least = bench.moving(counted), bench.least(counted)

    def measure() -> list[float | None]:
        with work() as once:
            once()  # What is made once and kept is made here.
            seconds = bench.seconds(once, ROUNDS)
            found = bench.on.profiled(once)
        kernels = None if found is None else float(found.kernels)
        busy = None if found is None else 1000 * found.busy_seconds
        return [kernels, busy, 1000 * seconds]

    return Case(
        (
            Quantity(f"{title}: kernels", "", None if counted is None else counted["launches"]),
            Quantity(f"{title}: kernels' time", "ms", None if moving is None else 1000 * moving),
            Quantity(f"{title}: time", "ms", None if least is None else 1000 * least),
        ),
        measure,
    )
