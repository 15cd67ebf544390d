"""The numbers of a running job as gauges of Ray, which Prometheus scrapes (docs/observability.md).

    with exported(progress, "evaluate_chapters", config.output) as gauges:
        gauges.show({"ttt_loss": {"total": 1.5}})

GAUGES names every one of them; Ray puts `ray_` before the names. The process that shows the
progress sets them, so that they outlive workers. Ray forgets a gauge that is not set for two of
its exports, so a thread sets all of them every few seconds, however long a step takes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from ray_jobs.runtime.progress import Counted, Progress, Reading, ticking
from ttt import storage

if TYPE_CHECKING:
    from ray.util.metrics import Gauge  # Ray is imported only where it runs.

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """What a gauge is."""

    help: str
    """A sentence, with the unit where there is one."""
    by: str | None = None
    """The tag that it has beside those of its job, where there are several of it."""


TAGS = ("command", "run")
"""Of every gauge: the job's command, and its run folder or output. Not `job`, which Prometheus
itself puts on everything that it scrapes."""

GAUGES: Mapping[str, Kind] = MappingProxyType(
    {
        "ttt_done": Kind("What is done, work before a resume included.", "unit"),
        "ttt_total": Kind("What there is to do.", "unit"),
        "ttt_per_second": Kind("What is done a second, since the workers were up.", "unit"),
        "ttt_replaced_workers": Kind(
            "Workers started in place of dead ones; of a training, how often all were started anew."
        ),
        # Jobs over items.
        "ttt_failed_items": Kind("Items without a result, counted since the job was started."),
        "ttt_acceptance": Kind("Share of the computed steps that stood, from 0 to 1."),
        "ttt_times_real_time": Kind("Seconds of audio that are cached a second."),
        # Trainings.
        "ttt_loss": Kind("Loss terms of the newest step.", "term"),
        "ttt_validation_loss": Kind("Loss of the newest validation."),
        "ttt_best_loss": Kind("Lowest validation loss yet, or what decides in its place."),
        "ttt_learning_rate": Kind("Learning rates of the newest step.", "group"),
        "ttt_grad_norm": Kind("Norm of the newest step's gradients, before they are clipped."),
        "ttt_windows_per_second": Kind("Windows trained on a second, over the newest ten seconds."),
        "ttt_data_wait_share": Kind("Share of those seconds that waits for data, from 0 to 1."),
        "ttt_step_seconds": Kind("Seconds of a step, the mean over those seconds."),
        "ttt_epoch": Kind("Epoch, or stage, of the newest step, from 1."),
        "ttt_phase": Kind("Phase of the newest step, from 1."),
        "ttt_skipped_steps": Kind("Steps left out because they were not finite."),
        "ttt_replaced_items": Kind("Damaged clips or windows that others took the place of."),
    }
)

FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "acceptance": "ttt_acceptance",
        "best_loss": "ttt_best_loss",
        "failed": "ttt_failed_items",
        "left_out": "ttt_failed_items",
        "replaced_workers": "ttt_replaced_workers",
        "without_score": "ttt_failed_items",
        "x_real_time": "ttt_times_real_time",
    }
)
"""Field of a progress line -> the gauge that shows it."""

Values = Mapping[str, float | Mapping[str, float]]
"""Gauge -> its value, or one for each value of its tag."""

_INTERVAL_SECONDS = 2.0


@contextmanager
def exported(progress: Progress, command: str, run: str) -> Iterator[Gauges]:
    """Keep gauges of the connected Ray inside the block: those of `progress` and what is shown.

    No fault of theirs fails the job: the first is logged, and the job goes on.
    """
    gauges = Gauges(command, storage.absolute(run))

    def export() -> None:
        with gauges.faults_logged():
            gauges.show(progress_values(progress.reading()))
            gauges.set()

    export()
    with ticking(export, _INTERVAL_SECONDS):
        yield gauges
    export()


class Gauges:
    """The newest values of a job."""

    def __init__(self, command: str, run: str) -> None:
        self._tags = {"command": command, "run": run}
        self._values: dict[str, dict[str, float]] = {}
        self._gauges: dict[str, Gauge] = {}
        self._fault_logged = False

    @contextmanager
    def faults_logged(self) -> Iterator[None]:
        """Log the first exception of such blocks with its traceback, and raise none of them."""
        try:
            yield
        except Exception:
            # Gauges are only looked at. Raised, a fault would fail a job whose work is done, or end
            # the thread that passes SIGTERM on. It may come every two seconds: one log has it.
            if not self._fault_logged:
                self._fault_logged = True
                logger.warning(
                    "a gauge of %s could not be set, so that it may stand still or be missing; "
                    "the job goes on without it",
                    self._tags["command"],
                    exc_info=True,
                )

    def show(self, values: Values) -> None:
        """Let these gauges have these values from the next time they are set.

        One that is not finite is set no more: its last value would stand for one that is none.
        """
        newest: dict[str, dict[str, float]] = {}
        for name, value in values.items():
            by_tag = value if isinstance(value, Mapping) else {"": value}
            assert isinstance(value, Mapping) == (GAUGES[name].by is not None), name
            finite = {tag: float(each) for tag, each in by_tag.items() if math.isfinite(each)}
            newest[name] = finite
        self._values.update(newest)  # All at once: another thread sets them.

    def set(self) -> None:
        """Set every gauge to its newest value."""
        for name, by_tag in list(self._values.items()):
            by = GAUGES[name].by
            for tag, value in by_tag.items():
                self._gauge(name).set(value, tags={**self._tags, **({by: tag} if by else {})})

    def _gauge(self, name: str) -> Gauge:
        if name not in self._gauges:
            from ray.util.metrics import Gauge

            kind = GAUGES[name]
            tags = TAGS if kind.by is None else (*TAGS, kind.by)
            self._gauges[name] = Gauge(name, description=kind.help, tag_keys=tags)
        return self._gauges[name]


def progress_values(reading: Reading) -> Values:
    """What a progress line says, as gauges: its counts, and the fields that FIELDS names."""
    done, total = {reading.unit: reading.done}, {reading.unit: reading.total}
    values: dict[str, float | Mapping[str, float]] = {
        "ttt_per_second": {reading.unit: math.nan if reading.rate is None else reading.rate}
    }
    for name, value in reading.fields.items():
        if isinstance(value, Counted):
            done[name], total[name] = value.done, value.total
        elif name in FIELDS:
            assert isinstance(value, int | float), name
            values[FIELDS[name]] = value
    return {"ttt_done": done, "ttt_total": total, **values}
