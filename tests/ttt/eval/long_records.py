"""Chapter records with losses made to order."""

import numpy as np
import scipy.signal

from ttt.eval.chapters.records import ChapterDetails, ChapterRecord


def record(
    nll: np.ndarray, chapter_id: str = "s/b/c", speaker: str = "s", model: str = "m"
) -> ChapterRecord:
    """nll [8, T] or [T], the same for all codebooks."""
    given = np.broadcast_to(nll, (8, nll.shape[-1])).astype(np.float32)
    details = ChapterDetails(
        chapter_id=chapter_id, speaker=speaker, model=model, codes_sha256=f"codes of {chapter_id}"
    )
    return ChapterRecord(details, given, np.zeros(given.shape[1], dtype=np.int32))


def noisy_loss(rng: np.random.Generator, frames: int, deviation: float = 2.0) -> np.ndarray:
    """Noise [frames] with lag-one correlation 0.3, as losses of neighbouring frames have."""
    white = rng.normal(0, deviation * (1 - 0.3**2) ** 0.5, frames)
    return scipy.signal.lfilter([1], [1, -0.3], white)
