"""The two faces of progress, read off the characters that were written."""

import io
import signal
import sys
import threading
import time

import pytest

from ray_jobs.runtime.progress import Progress, waiting_for


class Clock:
    """A clock that the test moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_a_plain_line_every_few_seconds():
    clock, log = Clock(), io.StringIO()
    with Progress("cache", 100, "clips", stream=log, clock=clock) as progress:
        for _ in range(20):
            clock.now += 0.5
            progress.advance(2, data_wait="1.2%", loss=0.123456)
    assert log.getvalue().splitlines() == [
        "cache:  20/100 clips  20%  4 clips/s  ETA 0:20  data_wait=1.2%  loss=0.1235",
        "cache:  40/100 clips  40%  4 clips/s  ETA 0:15  data_wait=1.2%  loss=0.1235",
        "cache:  40/100 clips  40%  4 clips/s  in 0:10  data_wait=1.2%  loss=0.1235",
    ]


def test_a_field_stays_until_none_takes_it_away():
    clock, log = Clock(), io.StringIO()
    progress = Progress("train", 10, "steps", stream=log, clock=clock)
    for fields in ({"loss": 1.5, "discriminator": 0.25}, {"loss": 1.25}, {"discriminator": None}):
        clock.now += 10
        progress.advance(**fields)
    shown = [line.partition("ETA")[2].split()[1:] for line in log.getvalue().splitlines()]
    assert shown == [
        ["loss=1.5", "discriminator=0.25"],
        ["loss=1.25", "discriminator=0.25"],
        ["loss=1.25"],
    ]


def test_work_done_before_does_not_count_into_the_rate():
    clock, log = Clock(), io.StringIO()
    progress = Progress("train", 10_000, "steps", done=5000, stream=log, clock=clock)
    clock.now += 10
    progress.advance(10)
    progress.close()
    progress.close()
    assert log.getvalue().splitlines() == [
        "train:  5,010/10,000 steps  50%  1 steps/s  ETA 1:23:10",
        "train:  5,010/10,000 steps  50%  1 steps/s  in 0:10",
    ]


def test_a_terminal_gets_one_live_line():
    clock, terminal = Clock(), Terminal()
    with Progress("cache", 4, "clips", stream=terminal, clock=clock) as progress:
        for _ in range(4):
            clock.now += 1
            progress.advance()
    written = terminal.getvalue()
    assert written.count("\n") == 1
    assert written.endswith("\n")
    frames = written.split("\r")[1:]
    assert frames[0].startswith("cache:  [######------------------]  1/4 clips  25%  1 clips/s")
    assert "[########################]  4/4 clips  100%" in frames[-1]
    assert all(frame.rstrip("\n").endswith("\x1b[K") for frame in frames)


def test_a_live_line_never_wraps(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    clock, terminal = Clock(), Terminal()
    progress = Progress("a long label", 4, "clips", stream=terminal, clock=clock)
    clock.now += 1
    progress.advance()
    assert len(terminal.getvalue().strip("\r").removesuffix("\x1b[K")) == 29


def test_nothing_to_do():
    log = io.StringIO()
    Progress("cache", 0, "clips", stream=log, clock=Clock()).close()
    assert log.getvalue() == "cache:  0/0 clips  in 0:00\n"


def test_what_is_waited_for_is_said_and_is_no_time_of_the_work():
    clock, log = Clock(), io.StringIO()
    progress = Progress("cache", 100, "clips", stream=log, clock=clock)
    with progress.waiting("workers to start and load"):
        clock.now += 20
        progress.advance(0)
        with progress.waiting("what is waited for already"):
            clock.now += 5
        progress.advance(0)
    clock.now += 10
    progress.advance(20)
    progress.close()
    assert log.getvalue().splitlines() == [
        "cache:  0/100 clips  0%  waiting for workers to start and load 0:20",
        "cache:  0/100 clips  0%  waiting for workers to start and load 0:25",
        "cache:  20/100 clips  20%  2 clips/s  ETA 0:40",
        "cache:  20/100 clips  20%  2 clips/s  in 0:10",
    ]


def test_a_wait_before_any_progress_is_said_every_few_seconds():
    log = io.StringIO()
    with waiting_for("Ray to start", seconds=0.01, stream=log):
        while log.getvalue().count("\n") < 2:
            time.sleep(0.01)
    assert log.getvalue().startswith("waiting for Ray to start 0:00\n")


def test_a_sentence_has_a_line_of_its_own_and_the_bar_comes_again_below():
    log, terminal, clock = io.StringIO(), Terminal(), Clock()
    for stream in (log, terminal):
        progress = Progress("train", 10, "steps", stream=stream, clock=clock)
        clock.now += 10
        progress.advance(5)
        progress.say("a node is to be taken away")
        clock.now += 10
        progress.advance(1)
    assert log.getvalue().splitlines()[1] == "a node is to be taken away"
    _, bar, said_and_bar = terminal.getvalue().split("\r", 2)
    assert bar.startswith("train:")
    said, bar = said_and_bar.split("\n\r")
    assert said == "a node is to be taken away\x1b[K"
    assert "6/10 steps" in bar


def test_threads_that_advance_lose_no_count_and_no_field_of_each_other():
    progress = Progress("cache", 100, "clips", stream=io.StringIO())
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def advance(name):
        for number in range(200):
            progress.advance(1, **{f"{name}{number}": number})

    threads = [threading.Thread(target=advance, args=(name,)) for name in "abcd"]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert progress.reading().done == 800
    assert len(progress.reading().fields) == 800


@pytest.mark.timeout(30)
def test_the_handler_of_a_signal_may_use_the_progress_that_it_interrupts():
    class InterruptedOnce(Clock):
        def __call__(self):
            if self.now == 110:
                self.now += 1
                signal.raise_signal(signal.SIGUSR1)
            return super().__call__()

    log, clock, seen = io.StringIO(), InterruptedOnce(), []
    progress = Progress("cache", 100, "clips", stream=log, clock=clock)

    def handle(_number, _frame):
        seen.append(progress.reading().done)
        progress.say("stopping")
        progress.close()

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        clock.now += 10
        progress.advance(2)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [2]
    assert "stopping\ncache:  2/100 clips" in log.getvalue()
