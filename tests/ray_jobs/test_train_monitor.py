"""What stands between driver and first worker may die: SIGTERM still arrives, and no run fails."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import ray

from ray_jobs.runtime import gauges as runtime_gauges
from ray_jobs.runtime.gauges import Gauges
from ray_jobs.runtime.progress import Progress
from ray_jobs.training import monitor as train_monitor
from ray_jobs.training.monitor import Monitor, MonitorClient, watched
from ray_jobs.training.position import Position

pytestmark = pytest.mark.usefixtures("ray_local")


@contextmanager
def both_sides(
    monitor: object, shown: io.StringIO
) -> Iterator[tuple[MonitorClient, threading.Event]]:
    """The worker's side and the driver's request, with a line of progress for each position."""
    client, stop = MonitorClient(monitor), threading.Event()
    with (
        Progress("training", 9, "steps", line_seconds=0, stream=shown) as progress,
        watched(monitor, progress, Gauges("train_decoder", "/run"), 0, stop),
        client.connected(),
    ):
        yield client, stop


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def at(step: int) -> Position:
    return Position(step, shown={}, data_wait_share=0.0, measured={"ttt_epoch": 1})


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == train_monitor.__name__]


def test_a_killed_monitor_comes_back_and_hands_on_the_request_to_stop() -> None:
    monitor, shown = Monitor.remote(), io.StringIO()
    with both_sides(monitor, shown) as (client, stop):
        client.move_to(at(3))
        wait_until(lambda: "3/9 steps" in shown.getvalue())
        os.kill(ray.get(monitor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        client.move_to(at(5))
        wait_until(lambda: "5/9 steps" in shown.getvalue())
        assert not client.stop_requested
        stop.set()
        wait_until(lambda: client.stop_requested)


def test_a_monitor_that_stays_away_is_warned_of_and_fails_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    monitor, shown = Monitor.remote(), io.StringIO()
    with both_sides(monitor, shown) as (client, _):
        client.move_to(at(3))
        wait_until(lambda: "3/9 steps" in shown.getvalue())
        ray.kill(monitor)
        wait_until(lambda: len(warnings(caplog)) == 2)
    assert all("do not reach the other side" in warning for warning in warnings(caplog))


def test_a_gauge_that_cannot_be_shown_keeps_neither_progress_nor_sigterm_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    monitor, shown = Monitor.remote(), io.StringIO()
    with both_sides(monitor, shown) as (client, stop):
        for step in (3, 5):
            client.move_to(dataclasses.replace(at(step), measured={"ttt_unknown": 1}))
            wait_until(lambda step=step: f"{step}/9 steps" in shown.getvalue())
        stop.set()
        wait_until(lambda: client.stop_requested)
    (warning,) = [each for each in caplog.records if each.name == runtime_gauges.__name__]
    assert "ttt_unknown" in (warning.exc_text or "")


def test_what_the_worker_says_is_printed_once_though_the_monitor_is_killed() -> None:
    monitor, shown = Monitor.remote(), io.StringIO()
    with both_sides(monitor, shown) as (client, _):
        client.say("the first")
        wait_until(lambda: "the first\n" in shown.getvalue())
        os.kill(ray.get(monitor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        client.say("the second")
        wait_until(lambda: "the second\n" in shown.getvalue())
    said = [line for line in shown.getvalue().splitlines() if line.startswith("the ")]
    assert said == ["the first", "the second"]


def test_another_first_worker_is_counted_once() -> None:
    monitor, gauges = Monitor.remote(), Gauges("train_decoder", "/run")
    progress = Progress("training", 9, "steps", line_seconds=1, stream=io.StringIO())
    with watched(monitor, progress, gauges, 0, threading.Event()):
        for restarts in range(3):
            client = MonitorClient(monitor)
            with client.connected():
                for step in (4, 5):  # after a restart from the checkpoint of step 3
                    client.move_to(at(step))
                    wait_until(lambda step=step: progress.reading().done == step)
            assert progress.reading().fields.get("replaced_workers", 0) == restarts
