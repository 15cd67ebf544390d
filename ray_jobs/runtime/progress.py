"""Progress of long work: a live bar on a terminal, one plain line every few seconds in a log.

What is waited for before the work begins is said as well, and does not count into its rate.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TextIO

_BAR_CELLS = 24
_REDRAW_SECONDS = 0.1


class Progress:
    """Counts `total` units of work and shows how far it is, how fast, and when it ends.

    Fields given to `advance` stay until they are replaced, or taken away by None: numbers are shown
    with four digits, text as it is (`data_wait="1.2%"`). Work done before this process started (a
    resumed run) goes into `done`: it counts as done, but not into the rate.
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
        self._done += n
        known = {**self._fields, **fields}
        self._fields = {name: value for name, value in known.items() if value is not None}
        now = self._clock()
        if now - self._shown >= self._interval:
            self._shown = now
            self._show(now)

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
            self._wait = None
            self._started += self._clock() - began

    def say(self, sentence: str) -> None:
        """Print a line of its own; a bar that stood there comes again below it."""
        line = f"\r{sentence}\x1b[K" if self._live else sentence
        print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Show where the work stands one last time; calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        self._show(self._clock(), last=True)

    def _show(self, now: float, last: bool = False) -> None:
        text = self._text(now - self._started, last)
        if not self._live:
            print(text, file=self._stream, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        # Return, the line, erase what an earlier, longer line left behind.
        end = "\n" if last else ""
        print(f"\r{text[:width]}\x1b[K", end=end, file=self._stream, flush=True)

    def _text(self, elapsed: float, last: bool) -> str:
        parts = [f"{self._label}:", f"{self._done:,}/{self._total:,} {self._unit}"]
        if self._total > 0:
            share = min(self._done / self._total, 1.0)
            parts.append(f"{share:.0%}")
            if self._live:
                filled = int(share * _BAR_CELLS)
                parts.insert(1, "[" + "#" * filled + "-" * (_BAR_CELLS - filled) + "]")
        worked = self._done - self._first
        if self._wait is not None:
            what, since = self._wait
            elapsed -= self._clock() - since
            parts.append(f"waiting for {what} {_duration(self._clock() - since)}")
        if worked > 0 and elapsed > 0:
            rate = worked / elapsed
            parts.append(f"{_number(rate)} {self._unit}/s")
            if not last:
                parts.append(f"ETA {_duration((self._total - self._done) / rate)}")
        if last:
            parts.append(f"in {_duration(elapsed)}")
        parts += [f"{name}={_number(value)}" for name, value in self._fields.items()]
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
