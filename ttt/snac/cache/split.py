"""Which clips of a cache are held out for validation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def held_out_rows(clip_ids: Sequence[str], share: float) -> np.ndarray:
    """Rows of the `share` of clips (at least one) whose ids hash lowest, rising, int64.

    The order of the clips in the cache does not matter, and no clip is ever on both sides.
    """
    digests = [hashlib.sha256(str(clip_id).encode()).digest() for clip_id in clip_ids]
    order = sorted(range(len(digests)), key=digests.__getitem__)
    return np.sort(np.array(order[: max(1, round(share * len(order)))], np.int64))
