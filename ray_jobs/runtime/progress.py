"""Progress of long work: a live bar on a terminal, one plain line every few seconds in a log.

What is waited for before the work begins is said as well, and does not count into its rate.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

_BAR_CELLS = 24
_REDRAW_SECONDS = 0.1


@dataclass(frozen=True)
class Counted:
    """A field that counts something else than the units."""

    done: int
    total: int

    def __str__(self) -> str:
        return f"{self.done:,}/{self.total:,}"


@dataclass(frozen=True)
class Reading:
    """Where work is at a moment."""

    done: int
    total: int
    unit: str
    rate: float | None
    """Units a second, without what was waited for; None before the first."""
    seconds: float
    """That the work took."""
    fields: Mapping[str, object]


class Progress:
    """Counts `total` units of work and shows how far it is, how fast, and when it ends.

    Fields given to `advance` stay until they are replaced, or taken away by None: numbers are shown
    with four digits, text as it is (`data_wait="1.2%"`). Work done before this process started (a
    resumed run) goes into `done`: it counts as done, but not into the rate. Any thread may call.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        line_seconds: float = 5.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._done = done
        self._first = done
        self._fields: dict[str, object] = {}
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._live = self._stream.isatty()
        self._interval = _REDRAW_SECONDS if self._live else line_seconds
        self._started = self._shown = clock()
        self._closed = False
        self._wait: tuple[str, float] | None = None
        # One that its holder may take again: methods call each other, and a signal's handler may
        # come in between.
        self._lock = threading.RLock()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def advance(self, n: int = 1, **fields: object) -> None:
        """Count `n` more units; show them when the last look is long enough ago."""
        with self._lock:
            self._done += n
            known = {**self._fields, **fields}
            self._fields = {name: value for name, value in known.items() if value is not None}
            now = self._clock()
            if now - self._shown >= self._interval:
                self._shown = now
                self._show(now)

    def reading(self) -> Reading:
        """Where the work is now."""
        with self._lock:
            return self._reading(self._clock())

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show that `what` is waited for inside the block, whose time is none of the work's."""
        if self._wait is not None:
            yield
            return
        self._wait = what, (began := self._clock())
        try:
            with ticking(lambda: self.advance(0), self._interval):
                yield
        finally:
            with self._lock:
                self._wait = None
                self._started += self._clock() - began

    def say(self, sentence: str) -> None:
        """Print a line of its own; a bar that stood there comes again below it."""
        line = f"\r{sentence}\x1b[K" if self._live else sentence
        with self._lock:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Show where the work stands one last time; calling it again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._show(self._clock(), last=True)

    def _reading(self, now: float) -> Reading:
        seconds = now - self._started - (0.0 if self._wait is None else now - self._wait[1])
        worked = self._done - self._first
        rate = worked / seconds if worked > 0 and seconds > 0 else None
        return Reading(self._done, self._total, self._unit, rate, seconds, self._fields)

    def _show(self, now: float, last: bool = False) -> None:
        text = self._text(now, last)
        if not self._live:
            print(text, file=self._stream, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        # Return, the line, erase what an earlier, longer line left behind.
        end = "\n" if last else ""
        print(f"\r{text[:width]}\x1b[K", end=end, file=self._stream, flush=True)

    def _text(self, now: float, last: bool) -> str:
        at = self._reading(now)
        parts = [f"{self._label}:", f"{at.done:,}/{at.total:,} {at.unit}"]
        if at.total > 0:
            share = min(at.done / at.total, 1.0)
            parts.append(f"{share:.0%}")
            if self._live:
                filled = int(share * _BAR_CELLS)
                parts.insert(1, "[" + "#" * filled + "-" * (_BAR_CELLS - filled) + "]")
        if self._wait is not None:
            what, since = self._wait
            parts.append(f"waiting for {what} {_duration(now - since)}")
        if at.rate is not None:
            parts.append(f"{_number(at.rate)} {at.unit}/s")
            if not last:
                parts.append(f"ETA {_duration((at.total - at.done) / at.rate)}")
        if last:
            parts.append(f"in {_duration(at.seconds)}")
        parts += [f"{name}={_number(value)}" for name, value in at.fields.items()]
        return "  ".join(parts)


@contextmanager
def waiting_for(what: str, seconds: float = 5.0, stream: TextIO | None = None) -> Iterator[None]:
    """Say every few seconds inside the block, where no Progress is yet, what is waited for."""
    began = time.monotonic()

    def say() -> None:
        waited = _duration(time.monotonic() - began)
        print(f"waiting for {what} {waited}", file=stream or sys.stderr, flush=True)

    with ticking(say, seconds):
        yield


@contextmanager
def ticking(call: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call `call` every few seconds from a thread inside the block."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            call()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
