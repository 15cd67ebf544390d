"""The synthetic voice: same seed, same bytes; full band; speech-like pauses and speakers."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from ttt.synthetic.voice import utterance, write_corpus

RATE = 48_000


def _energy_share(audio: np.ndarray, low: float, high: float) -> float:
    power = np.abs(np.fft.rfft(audio)) ** 2
    hertz = np.fft.rfftfreq(len(audio), 1 / RATE)
    return float(power[(hertz >= low) & (hertz < high)].sum() / power.sum())


def _frame_decibels(audio: np.ndarray) -> np.ndarray:
    """Level of each 20 ms frame relative to the loudest."""
    frames = audio[: len(audio) // 960 * 960].reshape(-1, 960)
    level = 10 * np.log10((frames.astype(np.float64) ** 2).mean(1) + 1e-12)
    return level - level.max()


def test_same_arguments_give_the_same_bytes() -> None:
    first, again = (utterance(7, 2.0, speaker=3) for _ in range(2))
    assert first.tobytes() == again.tobytes()


def test_seeds_and_speakers_differ() -> None:
    base = utterance(7, 2.0, speaker=3)
    for other in (utterance(8, 2.0, speaker=3), utterance(7, 2.0, speaker=4)):
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.5


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("seconds", [0.1, 1.2345, 5.0])
def test_samples_are_finite_floats_in_range_of_the_asked_length(seed: int, seconds: float) -> None:
    audio = utterance(seed, seconds)
    assert audio.dtype == np.float32
    assert audio.shape == (round(seconds * RATE),)
    assert np.isfinite(audio).all()
    assert 0.3 < np.abs(audio).max() <= 1.0


@pytest.mark.parametrize("seed", range(6))
def test_the_band_is_full_and_falls_as_in_speech(seed: int) -> None:
    audio = utterance(seed, 5.0)
    above = _energy_share(audio, 12_000, 24_000)
    assert 1e-5 < above < 0.02
    assert _energy_share(audio, 20_000, 24_000) > 1e-6
    assert _energy_share(audio, 0, 4_000) > 0.8


@pytest.mark.parametrize("seed", range(6))
def test_there_are_pauses_but_mostly_speech(seed: int) -> None:
    silent = (_frame_decibels(utterance(seed, 6.0)) < -40).mean()
    assert 0.03 < silent < 0.5


def test_high_frequencies_follow_the_low_ones() -> None:
    """Over time, the level above 12 kHz is predictable from the level at 4-12 kHz."""
    audio = utterance(1, 6.0)
    frames = audio[: len(audio) // 960 * 960].reshape(-1, 960) * np.hanning(960)
    power = np.abs(np.fft.rfft(frames)) ** 2
    low = 10 * np.log10(power[:, 80:240].sum(1) + 1e-9)
    high = 10 * np.log10(power[:, 240:].sum(1) + 1e-9)
    assert np.corrcoef(low, high)[0, 1] > 0.9


def test_one_speaker_keeps_the_pitch() -> None:
    """Pitch by autocorrelation differs less within a speaker than between extreme speakers."""
    pitches = {who: [_pitch(utterance(s, 3.0, speaker=who)) for s in range(3)] for who in range(8)}
    means = [np.mean(values) for values in pitches.values()]
    assert max(means) / min(means) > 1.5
    for values in pitches.values():
        assert max(values) / min(values) < 1.6


def _pitch(audio: np.ndarray) -> float:
    """Median over loud 40 ms frames of the strongest lag between 60 and 400 Hz."""
    slow = np.convolve(audio, np.ones(24) / 24, mode="same")[::6]
    frames = slow[: len(slow) // 320 * 320].reshape(-1, 320)
    loud = frames[(frames**2).mean(1) > 0.5 * (frames**2).mean()]
    spectrum = np.abs(np.fft.rfft(loud - loud.mean(1, keepdims=True), 1024)) ** 2
    lags = np.fft.irfft(spectrum)[:, 20:134] / (1 - np.arange(20, 134) / 320)
    return float(np.median(8_000 / (20 + lags.argmax(1))))


def test_corpus_is_reproducible_flac_in_speaker_folders(tmp_path: Path) -> None:
    first = write_corpus(tmp_path / "a", clips=5, seed=1, seconds=(0.2, 0.4), speakers=3)
    again = write_corpus(tmp_path / "b", clips=5, seed=1, seconds=(0.2, 0.4), speakers=3)
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    assert len({path.parent for path in first}) == 3
    for path in first:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.format) == (RATE, 1, "FLAC")
        assert 0.2 <= info.duration <= 0.4


def test_hopeless_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.1 s or more"):
        utterance(0, 0.01)
    with pytest.raises(ValueError, match="16,000"):
        utterance(0, 1.0, rate=8_000)
