"""Which windows of which clips make which micro-batch: pure arithmetic, no file is touched.

A window is a core of whole coarsest tokens and the slice that is decoded for it
(`ttt.snac.train.window_places`).

An epoch cuts every clip into as many whole cores as fit, one behind the other. How many does not
depend on the epoch, so that the steps of a run are known before it starts; what is left of the
clip is the room in which a hash of (seed, epoch, clip) puts the first of them. So an epoch hears
each sample of a clip once, but for less than one core at its two ends together, which the next
epoch cuts elsewhere. With `windows_per_clip` 1 it hears a single core, anywhere in the clip.

The plan is a pure function of (seed, epoch): a permutation of the windows of all clips, cut into
steps of M micro-batches of B windows. How many workers there are does not enter: worker r of W
takes micro-batches r, r + W, ... of every step. Windows left over after the last whole step sit
out this epoch, other ones in the next.

Shapes: B = windows of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ttt.errors import UserError
from ttt.permutation import hashed, permuted
from ttt.snac.geometry import CodeGeometry
from ttt.snac.train.window_places import ClipPlaces, Windows, windows_in
from ttt.training.micro_batches import BatchId

WindowsPerClip = Literal["length", 1]
"""How many windows of a clip an epoch hears: as many as fit into its length, or one."""


@dataclass(frozen=True)
class WindowShape:
    """How long the windows of an epoch are and how many make a step."""

    core_coarse: int
    context_coarse: int
    clips_per_micro_batch: int
    micro_batches_per_step: int
    windows_per_clip: WindowsPerClip = 1

    @property
    def clips_per_step(self) -> int:
        """Windows that one optimizer step sees, over all workers."""
        return self.clips_per_micro_batch * self.micro_batches_per_step

    @property
    def slice_coarse(self) -> int:
        """What is decoded of a window: its core and the context on both sides."""
        return self.core_coarse + 2 * self.context_coarse


class WindowPlan:
    """The windows of every epoch, for any shape."""

    def __init__(
        self,
        n_coarse: np.ndarray,
        n_samples: np.ndarray,
        geometry: CodeGeometry,
        reach_samples_48k: int,
        seed: int,
        rows: np.ndarray | None = None,
    ) -> None:
        """`n_coarse` and `n_samples` [clips] are a cache's catalogue.

        `reach_samples_48k` is the decoder's receptive field to one side. `rows` are the rows to
        draw from (all by default).
        """
        self.geometry = geometry
        self.seed = seed
        self._clips = ClipPlaces(n_coarse, n_samples, geometry, reach_samples_48k)
        self._rows = rows
        self._order: tuple[int, np.ndarray] | None = None
        self._firsts: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Clips the plan draws from."""
        return len(self._clips.n_coarse if self._rows is None else self._rows)

    def count(self, shape: WindowShape) -> int:
        """Windows of an epoch, those left over after its last step included."""
        if shape.windows_per_clip == 1:
            return len(self)
        return int(self._first_windows(shape.core_coarse)[-1])

    def steps(self, shape: WindowShape) -> int:
        """Steps of an epoch. Raises UserError when the windows do not fill one."""
        steps = self.count(shape) // shape.clips_per_step
        if steps == 0:
            raise UserError(
                f"{self.count_in_words(shape)} are fewer than the {shape.clips_per_step} of one "
                f"step ({shape.micro_batches_per_step} micro-batches of "
                f"{shape.clips_per_micro_batch}); cache more audio or lower the batch size"
            )
        return steps

    def count_in_words(self, shape: WindowShape, clips: str = "clips") -> str:
        """The windows of an epoch, for a sentence; `clips` says what the clips are."""
        if shape.windows_per_clip == 1:
            return f"{len(self)} {clips}"
        seconds = self.geometry.seconds(shape.core_coarse)
        return f"{self.count(shape)} windows of {seconds:.2f} s in {len(self)} {clips}"

    def windows(self, shape: WindowShape, batch: BatchId) -> Windows:
        """The windows of one micro-batch. Raises IndexError past the epoch's last step."""
        if not (
            0 <= batch.step < self.steps(shape) and 0 <= batch.micro < shape.micro_batches_per_step
        ):
            raise IndexError(f"{batch} is not in the plan of {self.steps(shape)} steps")
        first = (batch.step * shape.micro_batches_per_step + batch.micro) * (
            shape.clips_per_micro_batch
        )
        return self._at(shape, batch.epoch, first, first + shape.clips_per_micro_batch)

    def audio_samples(self) -> int:
        """48 kHz samples of the clips the plan draws from, without padding."""
        return int(self._clips.n_samples[self._all_rows()].sum(dtype=np.int64))

    def heard_samples(self, shape: WindowShape, epoch: int) -> int:
        """48 kHz samples that the loss of an epoch counts, while no clip is damaged."""
        rows = self._all_rows()
        start, count = self._cut(shape, epoch, rows)
        # The cores of a clip lie one behind the other: they are heard as one long core.
        heard = self._clips.valid_samples(
            rows, start, count * shape.core_coarse, shape.slice_coarse
        )
        stepped = self.steps(shape) * shape.clips_per_step
        left_over = self._at(shape, epoch, stepped, self.count(shape))
        return int(heard.sum() - left_over.valid_samples.sum())

    def replacements(
        self,
        wanted: int,
        batch: BatchId | None,
        core_coarse: int,
        slice_coarse: int,
        nth: int = 0,
    ) -> Iterator[Windows]:
        """Windows [1] of other clips to try, in this order, when clip `wanted` is damaged.

        Its `nth` window has others to try than the first. Without a batch (validation) they
        depend on the clip alone.
        """
        seed, epoch, nth = (self.seed, batch.epoch, nth) if batch else (0, 0, 0)
        for attempt in range(_REPLACEMENT_ATTEMPTS):
            draw = hashed(seed, epoch, wanted, attempt + nth * _REPLACEMENT_ATTEMPTS)
            rows = self._rows_of(np.array([draw % np.uint64(len(self))], np.int64))
            if rows[0] != wanted:
                room = np.maximum(self._clips.lengths(rows) - core_coarse, 0)
                core_at = (_start(room, seed, epoch, rows) + nth * core_coarse) % (room + 1)
                yield self._clips.windows(rows, core_at, np.array([nth]), core_coarse, slice_coarse)

    def _at(self, shape: WindowShape, epoch: int, first: int, end: int) -> Windows:
        """The windows in the places `first` to `end` - 1 of an epoch's order."""
        if shape.windows_per_clip == 1:
            clips = self._clip_order(epoch)[first:end].astype(np.int64)
            nth = np.zeros_like(clips)
        else:
            firsts = self._first_windows(shape.core_coarse)
            windows = permuted(np.arange(first, end), int(firsts[-1]), self.seed, epoch)
            clips = np.searchsorted(firsts, windows, side="right") - 1
            nth = windows - firsts[clips]
        rows = self._rows_of(clips)
        start, _ = self._cut(shape, epoch, rows)
        core_at = start + nth * shape.core_coarse
        return self._clips.windows(rows, core_at, nth, shape.core_coarse, shape.slice_coarse)

    def _cut(
        self, shape: WindowShape, epoch: int, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the first core of each of these clips starts in an epoch, and how many there are.

        Both int64 [clips].
        """
        lengths = self._clips.lengths(rows)
        count = np.ones_like(lengths)
        if shape.windows_per_clip == "length":
            count = windows_in(lengths, shape.core_coarse)
        room = np.maximum(lengths - count * shape.core_coarse, 0)
        return _start(room, self.seed, epoch, rows), count

    def _first_windows(self, core_coarse: int) -> np.ndarray:
        """The number of the first window of every clip, and that of all windows; int64."""
        # One length of core is kept: 22 MB for 2.8 million clips. The tuple makes the swap atomic.
        if self._firsts is None or self._firsts[0] != core_coarse:
            n_coarse, firsts = self._clips.n_coarse, np.zeros(len(self) + 1, np.int64)
            count = windows_in(
                n_coarse if self._rows is None else n_coarse[self._rows], core_coarse
            )
            np.cumsum(count, out=firsts[1:])
            self._firsts = (core_coarse, firsts)
        return self._firsts[1]

    def _clip_order(self, epoch: int) -> np.ndarray:
        # One epoch is kept: 11 MB for 2.8 million clips. The tuple makes the swap atomic.
        if self._order is None or self._order[0] != epoch:
            key = np.array([self.seed, epoch], np.uint64)
            generator = np.random.Generator(np.random.Philox(key=key))
            self._order = (epoch, generator.permutation(np.arange(len(self), dtype=np.uint32)))
        return self._order[1]

    def _all_rows(self) -> np.ndarray:
        return self._rows_of(np.arange(len(self)))

    def _rows_of(self, clips: np.ndarray) -> np.ndarray:
        return np.asarray(clips if self._rows is None else self._rows[clips], np.int64)


_REPLACEMENT_ATTEMPTS = 64


def validation_windows(
    clips: ClipPlaces,
    core_coarse: int,
    context_coarse: int,
    clips_per_batch: int,
    max_windows: int,
    rows: np.ndarray | None = None,
) -> list[Windows]:
    """Windows that are the same for ever, in batches of `clips_per_batch` (the last is shorter).

    Every clip (of `rows`, all by default) is cut into cores that do not overlap, and at most
    `max_windows` of them are taken, evenly spread over all. Raises UserError when no clip is
    long enough for a single valid sample.
    """
    rows = np.arange(len(clips.n_coarse)) if rows is None else np.asarray(rows, np.int64)
    ends = np.cumsum(windows_in(clips.lengths(rows), core_coarse))
    total = int(ends[-1]) if len(ends) else 0
    count = min(total, max_windows)
    chosen = (2 * np.arange(count) + 1) * total // (2 * max(count, 1))
    clip = np.searchsorted(ends, chosen, side="right")
    nth = chosen - np.concatenate([[0], ends])[clip]
    windows = clips.windows(
        rows[clip], nth * core_coarse, nth, core_coarse, core_coarse + 2 * context_coarse
    )
    usable = np.flatnonzero(windows.valid_samples > 0)
    if len(usable) == 0:
        seconds = clips.geometry.seconds(core_coarse)
        raise UserError(
            f"none of {len(rows)} clips is long enough to validate on windows of "
            f"{seconds:.2f} s; cache longer clips or shorten the windows"
        )
    return [
        windows.chosen(usable[first : first + clips_per_batch])
        for first in range(0, len(usable), clips_per_batch)
    ]


def _start(room: np.ndarray, seed: int, epoch: int, rows: np.ndarray) -> np.ndarray:
    """Where in 0 to `room` the windows of clips start; arrays int64 [B]."""
    return (hashed(seed, epoch, rows) % (room + 1).astype(np.uint64)).astype(np.int64)
