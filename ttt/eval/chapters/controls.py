"""Chapters changed on purpose, to see what a falling loss depends on."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt


def shuffle_stretches(
    codes: npt.NDArray[np.int16], stretch_frames: int, seed: int, chapter_id: str
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int64]]:
    """The same frames with stretches in random order: the voice stays, what is said no longer runs.

    Args:
        codes: [8, T].
        stretch_frames: length of a stretch; the chapter's last may be shorter.
        seed, chapter_id: choose the order.

    Returns:
        codes [8, T], and the frames at which a stretch begins, but the first.
    """
    starts = np.arange(0, codes.shape[1], stretch_frames)
    rng = np.random.default_rng([seed, zlib.crc32(chapter_id.encode())])
    stretches = [codes[:, start : start + stretch_frames] for start in rng.permutation(starts)]
    lengths = [stretch.shape[1] for stretch in stretches]
    return np.concatenate(stretches, axis=1), np.cumsum(lengths[:-1], dtype=np.int64)
