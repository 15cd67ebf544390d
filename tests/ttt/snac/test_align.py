"""Lag and gain of restored targets."""

import numpy as np
import pytest
import torch

from ttt.audio import resample
from ttt.snac.cache.inputs import LeftOut
from ttt.snac.cache.sources import align_pair
from ttt.snac.config import AlignConfig
from ttt.snac.geometry import CodeGeometry

GEOMETRY = CodeGeometry.preset("snac_24khz")


def _pair(seconds: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A source at 24 kHz and its perfect target at 48 kHz."""
    target = np.random.default_rng(seed).normal(0, 0.1, round(seconds * 48_000)).astype(np.float32)
    return resample(torch.from_numpy(target), 48_000, 24_000, sharp=True).numpy(), target


def _late(target: np.ndarray, lag: int) -> np.ndarray:
    return np.concatenate([np.zeros(lag, np.float32), target]) if lag >= 0 else target[-lag:]


@pytest.mark.parametrize("lag", [0, 1, 2, 777, 12_345, -1, -2, -3, -778, -20_001])
@pytest.mark.parametrize("gain", [0.5, 1.0, 1.7])
def test_a_known_lag_and_gain_are_found_and_undone(lag: int, gain: float) -> None:
    source, target = _pair()
    pair = align_pair(source, _late(target, lag) * np.float32(gain), GEOMETRY, AlignConfig())
    assert pair.lag_samples == lag
    assert pair.gain_db == pytest.approx(-20 * np.log10(gain), abs=0.01)
    skipped = -(-max(-lag, 0) // 2) * 2
    assert np.abs(pair.target - target[skipped : skipped + len(pair.target)]).max() < 1e-3
    assert np.array_equal(pair.source, source[skipped // 2 :][: len(pair.source)])
    assert len(pair.source) == -(-len(pair.target) // 2)
    assert len(pair.target) >= len(target) - abs(lag) - 1


def test_a_long_clip_is_correlated_block_by_block_exactly() -> None:
    source, target = _pair(seconds=50)
    pair = align_pair(source, _late(target, 4321), GEOMETRY, AlignConfig(max_lag_seconds=0.1))
    assert pair.lag_samples == 4321
    assert pair.correlation == pytest.approx(1, abs=1e-3)


def test_unrelated_audio_has_no_lag() -> None:
    source, _ = _pair(seed=0)
    _, other = _pair(seed=1)
    with pytest.raises(LeftOut) as left_out:
        align_pair(source, other, GEOMETRY, AlignConfig())
    assert left_out.value.reason == "lag not found"
    assert "correlation peaks at 0.0" in left_out.value.note


def test_a_lag_beyond_the_limit_is_not_found() -> None:
    source, target = _pair()
    with pytest.raises(LeftOut):
        align_pair(source, _late(target, 6000), GEOMETRY, AlignConfig(max_lag_seconds=0.1))


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="max_lag_seconds must be above 0"):
        AlignConfig(max_lag_seconds=0)
    with pytest.raises(ValueError, match="min_correlation must be between 0 and 1"):
        AlignConfig(min_correlation=1)
