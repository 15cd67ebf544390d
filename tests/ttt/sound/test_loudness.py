"""Loudness against the recommendation's own numbers and a filter made from its analogue shape."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from ttt.sound.loudness import loudness_lufs

RATE = 48_000


def _sine(level_db: float, seconds: float = 4.0, hertz: float = 997.0) -> np.ndarray:
    return 10 ** (level_db / 20) * np.sin(2 * np.pi * hertz * np.arange(seconds * RATE) / RATE)


def _reference(audio: np.ndarray) -> float:
    """By the filters' analogue shape (gain, frequency, quality) and a loop over blocks."""
    for kind, gain, quality, hertz in (
        ("shelf", 3.999843853973347, 0.7071752369554196, 1681.974450955533),
        ("high pass", 0.0, 0.5003270373238773, 38.13547087602444),
    ):
        k = math.tan(math.pi * hertz / RATE)
        a = [1 + k / quality + k * k, 2 * (k * k - 1), 1 - k / quality + k * k]
        if kind == "shelf":
            high, band = 10 ** (gain / 20), 10 ** (gain / 20 * 0.4996667741545416)
            b = [high + band * k / quality + k * k, 2 * (k * k - high)]
            b += [high - band * k / quality + k * k]
        else:
            b = [a[0], -2 * a[0], a[0]]
        audio = lfilter(np.array(b) / a[0], np.array(a) / a[0], audio)
    starts = range(0, len(audio) - 19_200 + 1, 4_800)
    powers = [float(np.mean(audio[start : start + 19_200] ** 2)) for start in starts]
    loud = [p for p in powers if -0.691 + 10 * math.log10(max(p, 1e-30)) > -70]
    gate = -0.691 + 10 * math.log10(np.mean(loud)) - 10
    kept = [p for p in loud if -0.691 + 10 * math.log10(p) > gate]
    return -0.691 + 10 * math.log10(np.mean(kept))


@pytest.mark.parametrize("level_db", [0.0, -20.0, -40.0])
def test_a_full_scale_sine_has_the_loudness_that_the_recommendation_states(level_db: float) -> None:
    assert loudness_lufs(_sine(level_db)) == pytest.approx(-3.01 + level_db, abs=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_it_equals_the_filter_of_the_analogue_shape(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(RATE * 3 + 17 * seed)
    audio = (np.cumsum(noise) * 1e-4, noise * 0.1, np.diff(noise) * 0.2, noise * 0.01)[seed]
    audio = audio * (0.02 + (np.arange(len(audio)) // 30_000 % 2))  # Pauses that gates leave out.
    found = loudness_lufs(audio)
    assert found == pytest.approx(_reference(audio), abs=0.005)


def test_pauses_and_quiet_passages_do_not_count() -> None:
    loud = _sine(-20)  # Blocks on the edges count, hence the tolerance.
    with_pause = np.concatenate([loud, np.zeros(RATE * 10), loud])
    assert loudness_lufs(with_pause) == pytest.approx(-23.0, abs=0.25)
    with_quiet = np.concatenate([loud, _sine(-50, 10), loud])
    assert loudness_lufs(with_quiet) == pytest.approx(-23.0, abs=0.25)


def test_gain_moves_it_by_as_much() -> None:
    audio = np.random.default_rng(0).standard_normal(RATE) * 0.05
    before, after = loudness_lufs(audio), loudness_lufs(audio * 10 ** (-7 / 20))
    assert before is not None
    assert after == pytest.approx(before - 7, abs=1e-9)


def test_what_has_no_loudness() -> None:
    assert loudness_lufs(np.zeros(RATE)) is None
    assert loudness_lufs(_sine(-75)) is None
    assert loudness_lufs(_sine(-20)[:19_199]) is None
    assert loudness_lufs(_sine(-20)[:19_200]) is not None
