"""Where windows lie in their clips, and how much of them the loss may count.

A window is a core of whole coarsest tokens, on which the loss is counted, and the slice of codes
that is decoded for it: `context_coarse` more tokens on both sides. All slices of a micro-batch
are equally long. Near a clip's end the slice shifts inward, so that the decoder's edge there is
the clip's own; a clip shorter than the slice is padded on the right. `valid_samples` says how
many samples of the core, from its start, may enter the loss: neither those past the clip's real
end nor those that the padding can reach through the decoder's receptive field.

Shapes: B = windows of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ttt.snac.geometry import CodeGeometry


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
    nth: np.ndarray
    """Which of its clip's windows each is, from 0."""
    core_coarse: int
    slice_coarse: int

    def __len__(self) -> int:
        return len(self.rows)

    def chosen(self, index: np.ndarray) -> Windows:
        """Some of them."""
        return Windows(
            rows=self.rows[index],
            slice_start=self.slice_start[index],
            core_start=self.core_start[index],
            valid_samples=self.valid_samples[index],
            nth=self.nth[index],
            core_coarse=self.core_coarse,
            slice_coarse=self.slice_coarse,
        )


@dataclass(frozen=True, eq=False)
class ClipPlaces:
    """The clips of a cache, and where windows of them lie."""

    n_coarse: np.ndarray
    n_samples: np.ndarray
    geometry: CodeGeometry
    reach_samples_48k: int

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Coarsest tokens of clips, int64 [B]."""
        return self.n_coarse[rows].astype(np.int64)

    def windows(
        self,
        rows: np.ndarray,
        core_at: np.ndarray,
        nth: np.ndarray,
        core_coarse: int,
        slice_coarse: int,
    ) -> Windows:
        """Slices around cores that start at `core_at` in their clips; arrays int64 [B]."""
        context_coarse = (slice_coarse - core_coarse) // 2
        last_start = np.maximum(self.lengths(rows) - slice_coarse, 0)
        slice_start = np.clip(core_at - context_coarse, 0, last_start)
        return Windows(
            rows=rows,
            slice_start=slice_start,
            core_start=core_at - slice_start,
            valid_samples=self.valid_samples(rows, core_at, core_coarse, slice_coarse),
            nth=nth,
            core_coarse=core_coarse,
            slice_coarse=slice_coarse,
        )

    def valid_samples(
        self,
        rows: np.ndarray,
        core_at: np.ndarray,
        core_coarse: int | np.ndarray,
        slice_coarse: int,
    ) -> np.ndarray:
        """Samples of cores that may enter the loss, int64 [B]."""
        n_coarse = self.lengths(rows)
        clip_end = self.geometry.samples_48k(n_coarse)
        clean_end = np.where(n_coarse < slice_coarse, clip_end - self.reach_samples_48k, clip_end)
        real_end = np.minimum(self.n_samples[rows].astype(np.int64), clean_end)
        from_core = real_end - self.geometry.samples_48k(core_at)
        return np.clip(from_core, 0, self.geometry.samples_48k(np.asarray(core_coarse)))


def windows_in(n_coarse: np.ndarray, core_coarse: int) -> np.ndarray:
    """Whole cores that fit into clips; one for a clip shorter than that, which is padded."""
    return np.maximum(n_coarse // core_coarse, 1)
