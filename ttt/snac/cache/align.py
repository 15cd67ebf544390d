"""Lag and gain between the audio that is encoded and the restored audio that is the target.

Restoration programs delay, scale and filter. The lag is where the cross-correlation of source
and target peaks, read on the 48 kHz grid; the gain is the least-squares factor that brings the
shifted target nearest to the source. Both are corrected on the target and recorded per clip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ttt.audio import resample
from ttt.snac.cache.inputs import LeftOut
from ttt.snac.config import AlignConfig
from ttt.snac.geometry import TARGET_RATE, CodeGeometry


@dataclass(frozen=True, eq=False)
class AlignedPair:
    """Source and target over the time that both cover."""

    source: np.ndarray
    """float32 [ceil(n_samples / 2)] at the codec's rate."""
    target: np.ndarray
    """float32 [n_samples] at 48 kHz, shifted and scaled."""
    lag_samples: int
    """48 kHz samples by which the target was late (negative: early)."""
    gain_db: float
    """Gain that was applied to the target."""
    correlation: float
    """Normalised correlation at that lag, at most 1."""


def align_pair(
    source: np.ndarray, target: np.ndarray, geometry: CodeGeometry, config: AlignConfig
) -> AlignedPair:
    """Align `target` (float32 at 48 kHz) with `source` (float32 at the codec's rate).

    Raises LeftOut "lag not found" when no lag within the limit makes them alike.
    """
    lag, correlation = _find_lag(source, target, geometry, config)
    limit = round(config.max_lag_seconds * TARGET_RATE)
    if correlation < config.min_correlation or abs(lag) >= limit:
        note = f"correlation peaks at {correlation:.2f} with a lag of {lag / TARGET_RATE:.4f} s"
        raise LeftOut("lag not found", note)
    # A late target loses its beginning; for an early one the source does, because the target
    # holds nothing for it. What remains of an odd lag is shifted on the target.
    step = geometry.upsampling
    skipped = math.ceil(max(-lag, 0) / step)
    source, target = source[skipped:], target[lag + skipped * step :]
    n_samples = min(len(target), len(source) * step)
    source, target = source[: math.ceil(n_samples / step)], target[:n_samples]
    low = _at_codec_rate(target, geometry)
    gain = float(_dot(source, low) / _dot(low, low))
    return AlignedPair(
        source=source,
        target=target * np.float32(gain),
        lag_samples=lag,
        gain_db=20 * math.log10(gain),
        correlation=correlation,
    )


def _find_lag(
    source: np.ndarray, target: np.ndarray, geometry: CodeGeometry, config: AlignConfig
) -> tuple[int, float]:
    """The lag (48 kHz samples) of the highest cross-correlation, and its normalised height."""
    low = _at_codec_rate(target, geometry)
    reach = math.ceil(config.max_lag_seconds * geometry.sample_rate)
    step = geometry.upsampling
    # Block by block with a margin of the longest lag: the exact sum, in bounded memory.
    block = max(4 * reach, _BLOCK_SAMPLES)
    size = 1 << (block + 2 * reach - 1).bit_length()
    padded = np.pad(low, (reach, max(0, len(source) - len(low)) + reach))
    correlation = np.zeros(2 * reach * step + 1)
    for start in range(0, len(source), block):
        piece = np.fft.rfft(source[start : start + block], size)
        around = np.fft.rfft(padded[start : start + block + 2 * reach], size)
        # A longer inverse transform reads the correlation between the samples as well.
        correlation += np.fft.irfft(piece.conj() * around, size * step)[: len(correlation)] * step
    peak = int(correlation.argmax())
    norm = math.sqrt(_dot(source, source) * _dot(low, low))
    return peak - reach * step, float(correlation[peak] / norm) if norm > 0 else 0.0


_BLOCK_SAMPLES = 2**19


def _at_codec_rate(target: np.ndarray, geometry: CodeGeometry) -> np.ndarray:
    low = resample(torch.from_numpy(target), TARGET_RATE, geometry.sample_rate, sharp=True)
    return low.numpy()


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.dot(a.astype(np.float64), b.astype(np.float64)))
