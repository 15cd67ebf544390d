"""Sections of cases: what is measured, in which order, and what becomes of a case that fails.

A case measures one or a few quantities at once, each of which stands beside its estimate. One that
fails is a row with its reason, and the next case goes on; only a lost device ends the run.
"""

from __future__ import annotations

import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.gpu.bench import Bench
from ttt.device_errors import is_device_lost, is_out_of_memory
from ttt.errors import UserError

NOT_RUN = "not run"

FAILURES = (
    # What a device, its compiler or a missing package comes up with.
    RuntimeError,
    MemoryError,
    ImportError,
    OSError,
    UserError,
    subprocess.SubprocessError,
    # What is wrong in a case that no device has run yet: the others need not wait for its repair.
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
"""What ends a case and not the run. Its row says why, and the exit code that there was one."""


@dataclass(frozen=True)
class Quantity:
    """Something to measure."""

    what: str
    unit: str
    estimate: float | None = None
    """None: there is none for it, or not at this size."""


@dataclass(frozen=True)
class Case:
    """Quantities that are measured together."""

    quantities: tuple[Quantity, ...]
    measure: Callable[[], Sequence[float | None]]
    """A value for each quantity; None for what this kind of device does not tell."""


@dataclass(frozen=True)
class Section:
    """Cases that belong together."""

    name: str
    seconds: float
    """No case begins when so many are over, of the full size."""
    cases: Callable[[Bench], Iterator[Case]]
    """Nothing is built before a case is measured."""


@dataclass(frozen=True)
class Row:
    """A quantity as it was found."""

    section: str
    what: str
    unit: str
    estimate: float | None
    measured: float | None
    reason: str | None = None
    """Why nothing was measured."""
    failed: str | None = None
    """The traceback, where the case failed."""

    @property
    def ratio(self) -> float | None:
        """Measured over estimate."""
        if self.measured is None or not self.estimate:
            return None
        return self.measured / self.estimate


class DeviceLost(RuntimeError):
    """Nothing can be measured any more in this process."""


def run(section: Section, bench: Bench, until: float, record: Callable[[Row], None]) -> None:
    """Measure a section's cases and record their rows, each as soon as it is there.

    Args:
        until: no case begins after this moment of `time.monotonic`.

    Raises:
        DeviceLost: after the case that lost it was recorded.
    """
    if bench.full:  # A rehearsal takes what time it needs.
        until = min(until, time.monotonic() + section.seconds)
    for case in section.cases(bench):
        values: Sequence[float | None] = [None] * len(case.quantities)
        reason = failed = None
        error: Exception | None = None
        if bench.device is None:
            reason = NOT_RUN
        elif time.monotonic() > until:
            reason = f"{NOT_RUN}: its time was over"
        else:
            try:
                values = case.measure()
            except FAILURES as caught:
                error, reason = caught, _reason(caught)
                failed = "".join(traceback.format_exception(caught))
                # The frames of the error hold the tensors of the case.
                traceback.clear_frames(caught.__traceback__)
                bench.forget()
        for quantity, value in zip(case.quantities, values, strict=True):
            why = reason or (NOT_RUN if value is None else None)
            record(
                Row(
                    section.name,
                    quantity.what,
                    quantity.unit,
                    quantity.estimate,
                    value,
                    why,
                    failed,
                )
            )
        if error is not None and is_device_lost(error):
            raise DeviceLost(str(error)) from error
    bench.forget()


def _reason(error: Exception) -> str:
    words = str(error).strip().partition("\n")[0][:160].replace("|", "/")
    if is_out_of_memory(error):
        return f"out of memory: {words}"
    return f"{type(error).__name__}: {words}"
