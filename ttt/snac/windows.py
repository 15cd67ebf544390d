"""Which windows of which clips make which micro-batch: pure arithmetic, no file is touched.

A window is a core of whole coarsest tokens, on which the loss is counted, and the slice of codes
that is decoded for it: `context_coarse` more tokens on both sides. All slices of a micro-batch
are equally long. Near a clip's end the slice shifts inward, so that the decoder's edge there is
the clip's own; a clip shorter than the slice is padded on the right. `valid_samples` says how
many samples of the core, from its start, may enter the loss: neither those past the clip's real
end nor those that the padding can reach through the decoder's receptive field.

The plan is a pure function of (seed, epoch): a permutation of the clips, cut into steps of M
micro-batches of B clips; the core's start is a hash of (seed, epoch, clip). How many workers
there are does not enter: worker r of W takes micro-batches r, r + W, ... of every step. Clips
left over after the last whole step sit out this epoch, other ones in the next.

Shapes: B = clips of a micro-batch, L = slice_coarse.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ttt.errors import UserError
from ttt.snac.geometry import CodeGeometry


@dataclass(frozen=True)
class WindowShape:
    """How long the windows of an epoch are and how many make a step."""

    core_coarse: int
    context_coarse: int
    clips_per_micro_batch: int
    micro_batches_per_step: int

    @property
    def clips_per_step(self) -> int:
        """Clips that one optimizer step sees, over all workers."""
        return self.clips_per_micro_batch * self.micro_batches_per_step


@dataclass(frozen=True)
class BatchId:
    """One micro-batch of a run: epochs count from 1, steps and micro-batches from 0."""

    epoch: int
    step: int
    micro: int


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of one micro-batch; positions in coarsest tokens, all arrays int64 [B]."""

    rows: np.ndarray
    """Rows of the cache's catalogue."""
    slice_start: np.ndarray
    """Where the slice starts in the clip."""
    core_start: np.ndarray
    """Where the core starts in the slice."""
    valid_samples: np.ndarray
    """48 kHz samples from the core's start that may enter the loss; 0 for a clip too short."""
    core_coarse: int
    slice_coarse: int

    def __len__(self) -> int:
        return len(self.rows)


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
        self._n_coarse = n_coarse
        self._n_samples = n_samples
        self._reach_samples_48k = reach_samples_48k
        self._rows = rows
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Clips the plan draws from."""
        return len(self._n_coarse if self._rows is None else self._rows)

    def steps(self, shape: WindowShape) -> int:
        """Steps of an epoch. Raises UserError when the clips do not fill one."""
        steps = len(self) // shape.clips_per_step
        if steps == 0:
            raise UserError(
                f"{len(self)} clips are fewer than the {shape.clips_per_step} of one step "
                f"({shape.micro_batches_per_step} micro-batches of "
                f"{shape.clips_per_micro_batch}); cache more audio or lower the batch size"
            )
        return steps

    def windows(self, shape: WindowShape, batch: BatchId) -> Windows:
        """The windows of one micro-batch. Raises IndexError past the epoch's last step."""
        if not (
            0 <= batch.step < self.steps(shape) and 0 <= batch.micro < shape.micro_batches_per_step
        ):
            raise IndexError(f"{batch} is not in the plan of {self.steps(shape)} steps")
        first = (batch.step * shape.micro_batches_per_step + batch.micro) * (
            shape.clips_per_micro_batch
        )
        order = self._epoch_order(batch.epoch)[first : first + shape.clips_per_micro_batch]
        rows = order if self._rows is None else self._rows[order]
        return self._drawn(
            np.asarray(rows, np.int64),
            self.seed,
            batch.epoch,
            shape.core_coarse,
            shape.core_coarse + 2 * shape.context_coarse,
        )

    def replacements(
        self, wanted: int, batch: BatchId | None, core_coarse: int, slice_coarse: int
    ) -> Iterator[Windows]:
        """Windows [1] of other clips to try, in this order, when clip `wanted` is damaged.

        Without a batch (validation) they depend on the clip alone.
        """
        seed, epoch = (self.seed, batch.epoch) if batch else (0, 0)
        for attempt in range(_REPLACEMENT_ATTEMPTS):
            draw = _hash(seed, epoch, wanted, attempt) % np.uint64(len(self))
            row = int(draw) if self._rows is None else int(self._rows[int(draw)])
            if row != wanted:
                yield self._drawn(np.array([row]), seed, epoch, core_coarse, slice_coarse)

    def _drawn(
        self, rows: np.ndarray, seed: int, epoch: int, core_coarse: int, slice_coarse: int
    ) -> Windows:
        n_coarse = self._n_coarse[rows].astype(np.int64)
        room = np.maximum(n_coarse - core_coarse, 0) + 1
        core_at = (_hash(seed, epoch, rows) % room.astype(np.uint64)).astype(np.int64)
        return _placed(
            rows,
            core_at,
            n_coarse,
            self._n_samples[rows].astype(np.int64),
            self.geometry,
            self._reach_samples_48k,
            core_coarse,
            slice_coarse,
        )

    def _epoch_order(self, epoch: int) -> np.ndarray:
        # One epoch is kept: 11 MB for 2.8 million clips. The tuple makes the swap atomic.
        if self._order is None or self._order[0] != epoch:
            key = np.array([self.seed, epoch], np.uint64)
            generator = np.random.Generator(np.random.Philox(key=key))
            self._order = (epoch, generator.permutation(np.arange(len(self), dtype=np.uint32)))
        return self._order[1]


_REPLACEMENT_ATTEMPTS = 64


def validation_windows(
    n_coarse: np.ndarray,
    n_samples: np.ndarray,
    geometry: CodeGeometry,
    reach_samples_48k: int,
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
    rows = np.arange(len(n_coarse)) if rows is None else np.asarray(rows, np.int64)
    clip_coarse = np.asarray(n_coarse, np.int64)[rows]
    ends = np.cumsum(np.maximum(clip_coarse // core_coarse, 1))
    total = int(ends[-1]) if len(ends) else 0
    count = min(total, max_windows)
    chosen = (2 * np.arange(count) + 1) * total // (2 * max(count, 1))
    clip = np.searchsorted(ends, chosen, side="right")
    before = np.concatenate([[0], ends])[clip]
    windows = _placed(
        rows[clip],
        (chosen - before) * core_coarse,
        clip_coarse[clip],
        np.asarray(n_samples, np.int64)[rows[clip]],
        geometry,
        reach_samples_48k,
        core_coarse,
        core_coarse + 2 * context_coarse,
    )
    usable = np.flatnonzero(windows.valid_samples > 0)
    if len(usable) == 0:
        raise UserError(
            f"none of {len(rows)} clips is long enough to validate on windows of "
            f"{geometry.seconds(core_coarse):.2f} s; cache longer clips or shorten the windows"
        )
    return [
        _selected(windows, usable[first : first + clips_per_batch])
        for first in range(0, len(usable), clips_per_batch)
    ]


def rank_micro_batches(rank: int, world_size: int, micro_batches_per_step: int) -> range:
    """The micro-batches of a step that worker `rank` of `world_size` takes.

    Raises ValueError when they cannot be shared out equally.
    """
    if micro_batches_per_step % world_size:
        raise ValueError(
            f"{micro_batches_per_step} micro-batches per step cannot be shared equally by "
            f"{world_size} workers; choose a number of workers that divides it"
        )
    return range(rank, micro_batches_per_step, world_size)


def _placed(
    rows: np.ndarray,
    core_at: np.ndarray,
    n_coarse: np.ndarray,
    n_samples: np.ndarray,
    geometry: CodeGeometry,
    reach_samples_48k: int,
    core_coarse: int,
    slice_coarse: int,
) -> Windows:
    """Slices around cores that start at `core_at` in their clips; arrays int64 [B]."""
    context_coarse = (slice_coarse - core_coarse) // 2
    last_start = np.maximum(n_coarse - slice_coarse, 0)
    slice_start = np.clip(core_at - context_coarse, 0, last_start)
    clean_end = np.where(
        n_coarse < slice_coarse,
        geometry.samples_48k(n_coarse) - reach_samples_48k,
        geometry.samples_48k(n_coarse),
    )
    valid_samples = np.minimum(n_samples, clean_end) - geometry.samples_48k(core_at)
    return Windows(
        rows=rows,
        slice_start=slice_start,
        core_start=core_at - slice_start,
        valid_samples=np.clip(valid_samples, 0, geometry.samples_48k(core_coarse)),
        core_coarse=core_coarse,
        slice_coarse=slice_coarse,
    )


def _selected(windows: Windows, index: np.ndarray) -> Windows:
    return Windows(
        rows=windows.rows[index],
        slice_start=windows.slice_start[index],
        core_start=windows.core_start[index],
        valid_samples=windows.valid_samples[index],
        core_coarse=windows.core_coarse,
        slice_coarse=windows.slice_coarse,
    )


def _hash(*values: int | np.ndarray) -> np.ndarray:
    """A uint64 that mixes all values; arrays broadcast. Source: splitmix64, Steele et al. 2014."""
    mixed = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for value in values:
            mixed = mixed + np.asarray(value).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed
