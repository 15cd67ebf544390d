"""Which windows of which chapters make which micro-batch: pure arithmetic, no file is touched.

An epoch cuts every chapter into windows of S frames, one behind the other, as few as hold all of
it. Where they hold more than the chapter, a hash of (seed, epoch, chapter) says how much of that
lies before its first frame; the rest lies behind its last. So an epoch hears every frame of every
chapter once, cut elsewhere in the next epoch, and how many windows there are does not depend on the
epoch. A window at a chapter's end, or of a chapter shorter than S, holds fewer than S frames: they
stand first in their row, and padding after them. A chapter no longer than a window is heard whole.

The plan is a pure function of (seed, epoch): a permutation of all windows, cut into steps of M
micro-batches of B windows. How many workers there are does not enter: worker r of W takes
micro-batches r, r + W, ... of every step. The windows of the last step, which need not be full, are
dealt out to all its micro-batches in turn; rows without a window have no frames.

Shapes: B windows of a micro-batch, S frames of a window, Q codebooks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ttt.errors import UserError
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.permutation import hashed, permuted
from ttt.training.micro_batches import BatchId


@dataclass(frozen=True)
class ChapterWindowShape:
    """How long windows are, and how many make a step."""

    frames: int
    windows_per_micro_batch: int
    micro_batches_per_step: int

    @property
    def windows_per_step(self) -> int:
        """Windows that one optimizer step sees, over all workers."""
        return self.windows_per_micro_batch * self.micro_batches_per_step


@dataclass(frozen=True, eq=False)
class ChapterWindows:
    """The windows of one micro-batch; arrays int64 [B]."""

    rows: np.ndarray
    """Rows of the cache; -1 where there is no window."""
    start: np.ndarray
    """The first frame of the chapter that the window holds."""
    frames: np.ndarray
    """How many it holds: the others of its row are padding."""
    length: int
    """S."""


@dataclass(frozen=True, eq=False)
class ChapterBatch:
    """A micro-batch of windows, read."""

    id: BatchId
    codes: np.ndarray
    """int16 [B, S, Q]; zeros where there is padding."""
    text: np.ndarray | None
    """int32 [B, S]; zeros where there is padding. None where it was not asked for."""
    windows: ChapterWindows


class ChapterWindowPlan:
    """The windows of every epoch, for any shape."""

    def __init__(self, n_frames: np.ndarray, seed: int, rows: np.ndarray | None = None) -> None:
        """`n_frames` [chapters] is `ChapterCache.n_frames`; `rows` are the rows to draw from (all
        by default)."""
        self.seed = seed
        self._rows = np.arange(len(n_frames)) if rows is None else np.asarray(rows, np.int64)
        self._lengths = np.asarray(n_frames, np.int64)[self._rows]
        self._ends: tuple[int, np.ndarray] | None = None

    def count(self, shape: ChapterWindowShape) -> int:
        """Windows of an epoch. Raises UserError when no chapter is as long as a window."""
        longest = int(self._lengths.max(initial=0))
        if shape.frames > longest:
            raise UserError(
                f"windows of {shape.frames:,} frames are longer than every one of "
                f"{len(self._lengths):,} chapters, the longest of which has {longest:,}; take "
                "shorter windows, or cache longer chapters (data.concatenate_seconds joins those "
                "of a book)"
            )
        return int(self._last_windows(shape)[-1])

    def steps(self, shape: ChapterWindowShape) -> int:
        """Steps of an epoch, the last of which need not be full. Raises as `count` does."""
        return -(-self.count(shape) // shape.windows_per_step)

    def padding_share(self, shape: ChapterWindowShape) -> float:
        """How much of all rows of an epoch is padding."""
        slots = self.steps(shape) * shape.windows_per_step * shape.frames
        return 1 - int(self._lengths.sum()) / slots

    def windows(self, shape: ChapterWindowShape, batch: BatchId) -> ChapterWindows:
        """The windows of one micro-batch. Raises IndexError past the epoch's last step."""
        count, steps = self.count(shape), self.steps(shape)
        micros = shape.micro_batches_per_step
        if not (0 <= batch.step < steps and 0 <= batch.micro < micros):
            raise IndexError(f"{batch} is not in the plan of {steps} steps")
        dealt = np.arange(shape.windows_per_micro_batch) * micros + batch.micro
        places = batch.step * shape.windows_per_step + dealt
        there = places < count
        numbers = permuted(places[there], count, self.seed, batch.epoch)
        ends = self._last_windows(shape)
        chapter = np.searchsorted(ends, numbers, side="right")
        lengths, rows = self._lengths[chapter], self._rows[chapter]
        in_chapter = -(-lengths // shape.frames)
        nth = numbers - (ends[chapter] - in_chapter)
        surplus = (in_chapter * shape.frames - lengths).astype(np.uint64)
        before = (hashed(self.seed, batch.epoch, rows) % (surplus + np.uint64(1))).astype(np.int64)
        begin = nth * shape.frames - before
        start = np.maximum(begin, 0)
        frames = np.minimum(begin + shape.frames, lengths) - start
        found = [np.full(len(places), nothing, np.int64) for nothing in (-1, 0, 0)]
        for array, values in zip(found, (rows, start, frames), strict=True):
            array[there] = values
        return ChapterWindows(*found, length=shape.frames)

    def _last_windows(self, shape: ChapterWindowShape) -> np.ndarray:
        """Windows of each chapter and those before it; int64 [chapters]."""
        # One length of window is kept. The tuple makes the swap atomic.
        if self._ends is None or self._ends[0] != shape.frames:
            self._ends = (shape.frames, np.cumsum(-(-self._lengths // shape.frames)))
        return self._ends[1]


def read_windows(
    cache: ChapterCache, windows: ChapterWindows, batch: BatchId, *, text: bool = False
) -> ChapterBatch:
    """Read a micro-batch: one read of a shard per window, two with the text.

    Raises what `ChapterCache.read` and `ChapterCache.read_text` raise.
    """
    shape = (len(windows.rows), windows.length)
    codes = np.zeros((*shape, cache.codes.codebooks), np.int16)
    tokens = np.zeros(shape, np.int32) if text else None
    for place in np.flatnonzero(windows.frames):
        row, start, frames = (
            int(array[place]) for array in (windows.rows, windows.start, windows.frames)
        )
        codes[place, :frames] = cache.read(row, start, start + frames)
        if tokens is not None:
            tokens[place, :frames] = cache.read_text(row, start, start + frames)
    return ChapterBatch(batch, codes, tokens, windows)
