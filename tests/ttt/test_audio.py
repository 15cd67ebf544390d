"""Reading, converting and resampling audio."""

from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

from ttt.audio import (
    ChannelsCancel,
    from_int16,
    mix_to_mono,
    read_audio,
    read_audio_blocks,
    resample,
    through_rate,
    to_int16,
    write_wav,
)
from ttt.errors import UserError


def _noise(samples: int = 4800, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (samples, channels))


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "ogg", "mp3"])
def test_reads_the_formats_of_libsndfile(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, _noise(channels=2), 48_000)
    audio, rate = read_audio(path)
    assert (audio.dtype, audio.shape, rate) == (np.float32, (2, 4800), 48_000)
    assert mix_to_mono(audio).shape == (4800,)


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "w64", "rf64", "au", "caf"])
def test_a_file_cut_in_half_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    soundfile.write(whole, _noise(48_000), 48_000, subtype="PCM_16")
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"cut\.{suffix}: "):
        read_audio(cut)


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
def test_a_compressed_file_cut_in_half_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    soundfile.write(whole, _noise(48_000), 48_000)
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"cut\.{suffix}: cut short"):
        read_audio(cut)


def test_a_wav_written_into_a_pipe_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "piped.wav"
    soundfile.write(path, _noise(4800), 48_000, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert read_audio(path)[0].shape == (1, 4800)


@pytest.mark.parametrize("content", [b"", b"not audio", b"RIFF"])
def test_what_is_not_audio_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.wav: cannot be read as audio"):
        read_audio(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.wav: cannot be read as audio \(no such file\)"):
        read_audio(tmp_path / "none.wav")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    audio = _noise()
    audio[7] = bad
    soundfile.write(tmp_path / "a.wav", audio, 48_000, subtype="FLOAT")
    with pytest.raises(UserError, match=r"a\.wav: holds NaN or infinite samples"):
        read_audio(tmp_path / "a.wav")


def test_int16_survives_the_way_through_float() -> None:
    every = np.arange(-32768, 32768).astype(np.int16)
    assert np.array_equal(to_int16(from_int16(every)), every)


def test_past_full_scale_saturates() -> None:
    assert to_int16(np.array([1.0, 1.7, -1.0, -3.0])).tolist() == [32767, 32767, -32768, -32768]


def test_wav_round_trip(tmp_path: Path) -> None:
    audio = from_int16(to_int16(_noise()[:, 0]))
    write_wav(tmp_path / "a.wav", torch.from_numpy(audio), 48_000)
    again, rate = read_audio(tmp_path / "a.wav")
    assert rate == 48_000
    assert np.array_equal(again[0], audio)


@pytest.mark.parametrize("from_rate", [44_100, 96_000, 48_000])
def test_sharp_resampling_equals_an_independent_resampler_in_the_pass_band(from_rate: int) -> None:
    seconds = np.arange(from_rate) / from_rate
    tones = [100.0, 5_000.0, 15_000.0, 19_000.0]
    audio = sum(np.sin(2 * np.pi * tone * seconds) for tone in tones) / 8
    ours = resample(torch.from_numpy(audio).float(), from_rate, 48_000, sharp=True).numpy()
    reference = scipy.signal.resample(audio, 48_000)
    assert ours.shape == reference.shape
    middle = slice(2_000, -2_000)
    assert np.abs(ours[middle] - reference[middle]).max() < 1e-3


def test_sharp_resampling_leaves_nothing_above_the_new_nyquist() -> None:
    seconds = np.arange(48_000) / 48_000
    tone = torch.from_numpy(np.sin(2 * np.pi * 12_500 * seconds)).float()
    sharp = resample(tone, 48_000, 24_000, sharp=True)[1000:-1000]
    assert sharp.abs().max() < 1e-4


def test_blocks_are_the_whole_and_never_longer_than_asked(tmp_path: Path) -> None:
    path = tmp_path / "x.flac"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1000, 2)).astype(np.float32)
    soundfile.write(path, noise, 16_000, subtype="PCM_24")
    whole, _ = read_audio(path)
    blocks = list(read_audio_blocks(path, 300))
    assert [block.shape for block in blocks] == [(2, 300), (2, 300), (2, 300), (2, 100)]
    assert np.array_equal(np.concatenate(blocks, axis=1), whole)
    span = np.concatenate(list(read_audio_blocks(path, 64, start=77, stop=500)), axis=1)
    assert np.array_equal(span, whole[:, 77:500])
    with pytest.raises(UserError, match=r"x\.flac: cut short, 1,000 of 1,200 samples"):
        list(read_audio_blocks(path, 600, stop=1200))


def test_through_a_lower_rate_keeps_its_band_and_nothing_above() -> None:
    time = torch.arange(48_001) / 48_000
    tones = torch.stack([torch.sin(2 * torch.pi * hertz * time) for hertz in (11_000, 13_000)])
    limited = through_rate(tones, 48_000, 24_000)
    assert limited.shape == (2, 48_001)

    def level(audio: torch.Tensor) -> torch.Tensor:
        return audio[:, 1_000:-1_000].square().mean(dim=1).sqrt() * 2**0.5

    assert level(limited)[1] < 0.01
    default = level(resample(resample(tones, 48_000, 24_000), 24_000, 48_000))[0]
    assert float(level(limited)[0]) == pytest.approx(float(default) ** 0.5, rel=0.03)  # once only


def _stereo(left: np.ndarray, *others: np.ndarray) -> np.ndarray:
    return np.stack([left, *others]).astype(np.float32)


_VOICE, _OTHER = np.random.default_rng(1).normal(0, 0.1, (2, 48_000))


@pytest.mark.parametrize(
    "audio",
    [
        _stereo(_VOICE, -_VOICE),
        _stereo(_VOICE, -0.9 * _VOICE),
        _stereo(_VOICE, -_VOICE + 0.01 * _OTHER),
        _stereo(_VOICE, -_VOICE, _OTHER * 1e-3, -_OTHER * 1e-3),
        _stereo(_VOICE, -_VOICE, _VOICE, -_VOICE, 0 * _VOICE, 0 * _VOICE),
        _stereo(_VOICE, np.where(np.arange(48_000) < 16_000, -_VOICE, _VOICE)),
        _stereo(_VOICE, -np.roll(_VOICE, 0)) * 1e-3,
    ],
    ids=["opposite", "nearly", "with noise", "four", "six", "for a third of it", "faint"],
)
def test_channels_that_cancel_are_not_mixed(audio: np.ndarray) -> None:
    with pytest.raises(ChannelsCancel, match=rf"its {len(audio)} channels cancel"):
        mix_to_mono(audio)


@pytest.mark.parametrize(
    "audio",
    [
        _stereo(_VOICE),
        _stereo(_VOICE, _VOICE),
        _stereo(_VOICE, _OTHER),
        _stereo(_VOICE, 0 * _VOICE),
        _stereo(_VOICE, -0.3 * _VOICE),
        _stereo(_VOICE, *(0 * _VOICE for _ in range(7))),
        _stereo(0 * _VOICE, 0 * _VOICE),
        _stereo(_VOICE, np.roll(_VOICE, 20)),
        np.zeros((2, 0), np.float32),
    ],
    ids=["mono", "same", "two", "one silent", "little", "seven silent", "silent", "late", "empty"],
)
def test_other_channels_are_mixed_to_their_mean(audio: np.ndarray) -> None:
    assert np.allclose(mix_to_mono(audio), audio.mean(axis=0), atol=1e-7)


@pytest.mark.parametrize("from_rate", [22_051, 44_101, 47_999, 0, -1, 4_000_000_000, 1, 11_127])
@pytest.mark.parametrize("to_rate", [24_000, 48_000])
def test_rates_without_a_practical_ratio_are_refused(from_rate: int, to_rate: int) -> None:
    with pytest.raises(UserError, match="has no practical ratio to"):
        resample(torch.zeros(100), from_rate, to_rate)


@pytest.mark.parametrize("from_rate", [8_000, 11_025, 22_050, 44_100, 88_200, 192_000, 37_800])
def test_rates_that_people_have_are_resampled(from_rate: int) -> None:
    assert resample(torch.zeros(from_rate), from_rate, 24_000).shape == (24_000,)
