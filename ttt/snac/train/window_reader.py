"""Turn planned windows into micro-batches of tensors, replacing what cannot be read.

A damaged clip (short read, code out of range, index of another file) is replaced by another one
that a hash of (seed, epoch, window, attempt) chooses, so that a second run replaces it alike; the
micro-batch names what was replaced and why.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ttt.errors import UserError
from ttt.snac.cache.index import CodeCache, DamagedClip
from ttt.snac.train.window_places import Windows
from ttt.snac.train.windows import WindowPlan, WindowShape
from ttt.training.device import copied_ahead
from ttt.training.local_source import EpochSize, LocalSource
from ttt.training.micro_batches import BatchId


@dataclass(frozen=True)
class Replacement:
    """A clip that could not be read."""

    wanted: str
    """Its id."""
    reason: str
    used: str
    """The id of the clip that took its place."""


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """The windows of B clips: codes of the slices [B, L], audio of their cores [B, T]."""

    id: BatchId | None
    """None for validation."""
    codes: torch.Tensor
    """int16 [B, L, codes_per_coarse], interleaved by scale; zeros where a clip is too short."""
    audio: torch.Tensor
    """int16 [B, T] at 48 kHz."""
    core_start: torch.Tensor
    """Where the core starts in the slice, in coarsest tokens; int64 [B]."""
    valid_samples: torch.Tensor
    """Samples from the core's start that the loss counts; int64 [B]."""
    clip_ids: list[str]
    replaced: list[Replacement] = field(default_factory=list)

    def ahead(self, device: torch.device) -> MicroBatch:
        """The same with all that a model is given on its device, copied without waiting."""
        there = {
            name: copied_ahead(getattr(self, name), device)
            for name in ("codes", "audio", "valid_samples")
        }
        return replace(self, **there)


class WindowReader:
    """Reads the windows of one cache."""

    def __init__(self, cache: CodeCache, plan: WindowPlan, *, reused_batches: int = 0) -> None:
        """`plan` chooses replacements.

        With `reused_batches` = k > 0 the tensors live in k buffers that are used in turn: a
        micro-batch is overwritten by the k-th read after it. Fresh memory for every batch costs
        up to five times as much as filling it.
        """
        self._cache = cache
        self._plan = plan
        self._reused_batches = reused_batches
        self._ring: deque[torch.Tensor] = deque()

    def read(self, windows: Windows, batch: BatchId | None) -> MicroBatch:
        """The micro-batch of these windows; `batch` is its place in the plan.

        Raises UserError when a clip and all its replacements are damaged.
        """
        codes, damaged = self._cache.gather_codes(
            windows.rows, windows.slice_start, windows.slice_coarse
        )
        audio = self._audio_buffer(windows)
        rows = windows.rows.copy()
        core_start = windows.core_start.copy()
        valid_samples = windows.valid_samples.copy()
        damaged |= self._read_cores(windows, audio.numpy(), damaged)
        replaced = []
        for at, reason in sorted(damaged.items()):
            used, codes[at] = self._replace(windows, batch, at, reason, audio.numpy()[at])
            rows[at], core_start[at], valid_samples[at] = (
                used.rows[0],
                used.core_start[0],
                used.valid_samples[0],
            )
            replaced.append(
                Replacement(self._clip_id(windows.rows[at]), reason, self._clip_id(rows[at]))
            )
        return MicroBatch(
            id=batch,
            codes=torch.from_numpy(codes),
            audio=audio,
            core_start=torch.from_numpy(core_start),
            valid_samples=torch.from_numpy(valid_samples),
            clip_ids=[self._clip_id(row) for row in rows],
            replaced=replaced,
        )

    def _read_cores(
        self, windows: Windows, audio: np.ndarray, damaged: dict[int, str]
    ) -> dict[int, str]:
        """Fill `audio` [B, T], skipping damaged positions; returns newly found ones."""
        geometry, n_coarse = self._cache.geometry, self._cache.catalogue.n_coarse
        core_at = windows.slice_start + windows.core_start
        present = np.minimum(n_coarse[windows.rows] - core_at, windows.core_coarse)
        rows = windows.rows.tolist()
        starts = geometry.samples_48k(core_at).tolist()
        counts = geometry.samples_48k(present.astype(np.int64)).tolist()

        def read(at: int) -> str | None:
            if at in damaged:
                return None
            try:
                self._cache.read_audio_into(rows[at], starts[at], audio[at, : counts[at]])
            except DamagedClip as damage:
                return str(damage)
            audio[at, counts[at] :] = 0
            return None

        reasons = self._cache.concurrently(read, range(len(rows)))
        return {at: reason for at, reason in enumerate(reasons) if reason}

    def _replace(
        self, windows: Windows, batch: BatchId | None, at: int, reason: str, audio: np.ndarray
    ) -> tuple[Windows, np.ndarray]:
        """Read another clip's core into `audio` [T]; returns its window and codes [L, ...]."""
        wanted = int(windows.rows[at])
        tried = 0
        for other in self._plan.replacements(
            wanted, batch, windows.core_coarse, windows.slice_coarse, int(windows.nth[at])
        ):
            tried += 1
            codes, damaged = self._cache.gather_codes(
                other.rows, other.slice_start, other.slice_coarse
            )
            if not damaged and not self._read_cores(other, audio[None], {}):
                return other, codes[0]
        raise UserError(
            f"{self._cache.uri}: clip {self._clip_id(wanted)} cannot be read ({reason}), nor any "
            f"of {tried} others tried instead; check it with ray_jobs.cache_codes --verify"
        )

    def _audio_buffer(self, windows: Windows) -> torch.Tensor:
        samples = self._cache.geometry.samples_48k(windows.core_coarse)
        shape = (len(windows), samples)
        if len(self._ring) < self._reused_batches or not self._ring:
            buffer = torch.empty(shape, dtype=torch.int16)
        else:
            buffer = self._ring.popleft()
            if buffer.shape != shape:
                buffer = torch.empty(shape, dtype=torch.int16)
        if self._reused_batches:
            self._ring.append(buffer)
        return buffer

    def _clip_id(self, row: int) -> str:
        return self._cache.catalogue.clip_ids[int(row)]


class LocalWindowSource(LocalSource[MicroBatch]):
    """The micro-batches of one worker, read in its own process."""

    def __init__(
        self,
        reader: WindowReader,
        plan: WindowPlan,
        shapes: Sequence[WindowShape],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`shapes[epoch - 1]` is the shape of an epoch's windows."""
        epochs = [EpochSize(plan.steps(each), each.micro_batches_per_step) for each in shapes]
        super().__init__(
            lambda id: reader.read(plan.windows(shapes[id.epoch - 1], id), id),
            epochs,
            rank,
            world_size,
        )
