"""Folders of audio: what is found, what is left out and why."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from ttt.audio import from_int16
from ttt.errors import UserError
from ttt.snac.cache.inputs import ClipInput, LeftOut, QualityConfig
from ttt.snac.cache.sources import list_folder, list_pairs, prepare_pair, prepare_recording
from ttt.snac.config import AlignConfig
from ttt.snac.geometry import CodeGeometry

GEOMETRY = CodeGeometry.preset("snac_24khz")


def _noise(seconds: float = 1.0, rate: int = 48_000, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), channels))


def _write(path: Path, audio: np.ndarray, rate: int = 48_000, subtype: str = "PCM_16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype=subtype)
    return path


def _prepare(path: Path, **quality: float) -> object:
    clip = ClipInput(clip_id=path.name, source=str(path))
    return prepare_recording(clip, GEOMETRY, QualityConfig(**quality))


def _reason(path: Path, **quality: float) -> tuple[str, str]:
    with pytest.raises(LeftOut) as left_out:
        _prepare(path, **quality)
    return left_out.value.reason, left_out.value.note


def test_folder_lists_audio_at_any_depth_in_order(tmp_path: Path) -> None:
    for name in (
        "b/c/x.FLAC",
        "a.wav",
        "b/y.ogg",
        "z.m4a",
        "notes.txt",
        ".hidden.wav",
        "b/._x.wav",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [clip.clip_id for clip in list_folder(str(tmp_path))] == [
        "a.wav",
        "b/c/x.FLAC",
        "b/y.ogg",
        "z.m4a",
    ]


def test_empty_missing_and_remote_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no audio file, at any depth"):
        list_folder(str(tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        list_folder(str(tmp_path / "none"))
    with pytest.raises(UserError, match="must be local paths"):
        list_folder("s3://bucket/audio")


def test_a_48k_recording_is_its_own_target_bit_for_bit(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.wav", _noise())
    clip = _prepare(path)
    samples, _ = soundfile.read(path, dtype="int16")
    assert np.array_equal(clip.audio, samples)
    assert clip.source.shape == (24_000,)
    assert clip.notes == ()


def test_stereo_and_other_rates_are_converted_and_noted(tmp_path: Path) -> None:
    clip = _prepare(_write(tmp_path / "a.flac", _noise(rate=44_100, channels=2), 44_100))
    assert clip.audio.shape == (48_000,)
    assert clip.notes == ("2 channels mixed to mono", "resampled from 44,100 Hz")


def test_what_a_resampler_lifts_past_full_scale_saturates_with_a_note(tmp_path: Path) -> None:
    square = np.sign(np.sin(np.arange(44_100) * 0.2))[:, None] * 0.999
    clip = _prepare(_write(tmp_path / "a.wav", square, 44_100, "FLOAT"))
    assert clip.audio.max() == 32767
    assert clip.audio.min() == -32768
    assert clip.notes[-1].endswith("samples saturated")


def test_reasons(tmp_path: Path) -> None:
    whole = _write(tmp_path / "whole.wav", _noise())
    cut = tmp_path / "cut.wav"
    cut.write_bytes(whole.read_bytes()[:40_000])
    nan = _noise()
    nan[5] = np.nan
    clipped = np.clip(_noise() * 20, -1, 1)
    cases = {
        "unreadable": cut,
        "wrong rate": _write(tmp_path / "rate.wav", _noise(rate=16_000), 16_000),
        "too short": _write(tmp_path / "short.wav", _noise(0.2)),
        "silent": _write(tmp_path / "silent.wav", _noise() * 1e-3),
        "clipped": _write(tmp_path / "clipped.wav", clipped),
    }
    for reason, path in cases.items():
        assert _reason(path)[0] == reason
    assert _reason(_write(tmp_path / "nan.wav", nan, subtype="FLOAT")) == (
        "unreadable",
        f"{tmp_path}/nan.wav: holds NaN or infinite samples",
    )
    zeros = _write(tmp_path / "zeros.wav", np.zeros((48_000, 1)))
    assert _reason(zeros) == ("silent", "peak zero everywhere")
    assert _reason(cases["wrong rate"])[1] == "16,000 Hz, at least 44,100 needed"
    assert _reason(whole, max_seconds=0.9)[0] == "too long"
    assert _reason(_write(tmp_path / "none.wav", _noise(0)), min_seconds=0)[0] == "too short"
    assert _reason(_write(tmp_path / "odd.wav", _noise(rate=47_999), 47_999))[0] == "wrong rate"


def test_quality_limits_are_checked() -> None:
    for wrong in (
        {"min_seconds": -1},
        {"min_seconds": 9, "max_seconds": 8},
        {"max_seconds": 1e6},
        {"silent_peak_db": 0},
        {"clipped_share": 0},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}|max_seconds"):
            QualityConfig(**wrong)


def test_pairs_are_matched_by_path_without_suffix(tmp_path: Path) -> None:
    for name in ("s/x/a.wav", "s/b.wav", "s/c.wav", "s/c.flac", "s/d.wav", "t/x/a.flac"):
        _write(tmp_path / name, _noise(0.01))
    for name in ("t/a.wav", "t/c.wav", "t/d.wav", "t/d.flac"):
        _write(tmp_path / name, _noise(0.01))
    found = {
        clip.clip_id: (clip.problem, Path(clip.target).name)
        for clip in list_pairs(str(tmp_path / "s"), str(tmp_path / "t"))
    }
    assert found == {
        "x/a.wav": (None, "a.flac"),
        "a.wav": ("no partner", "a.wav"),
        "b.wav": ("no partner", ""),
        "c.wav": ("duplicate", ""),
        "c.flac": ("duplicate", ""),
        "d.wav": ("duplicate", ""),
    }


def _prepare_pair(
    folder: Path, target: np.ndarray, source: np.ndarray, rate: int = 24_000
) -> object:
    paths = {
        "source": str(_write(folder / "s.wav", source, rate, "FLOAT")),
        "target": str(_write(folder / "t.wav", target, 48_000, "FLOAT")),
    }
    return prepare_pair(
        ClipInput(clip_id="s.wav", **paths), GEOMETRY, QualityConfig(), AlignConfig()
    )


def test_a_halved_target_is_detected_corrected_and_reported(tmp_path: Path) -> None:
    whole = _noise(2)
    late = np.concatenate([np.zeros((480, 1)), whole * 0.5])
    clip = _prepare_pair(tmp_path, late, whole, rate=48_000)
    assert clip.lag_samples == 480
    assert clip.gain_db == pytest.approx(6.02, abs=0.01)
    assert "target: gain +6.02 dB applied" in clip.notes
    assert "source: resampled from 48,000 Hz" in clip.notes
    assert np.abs(from_int16(clip.audio) - whole[:, 0]).max() < 1e-3


def test_pair_reasons_name_the_file(tmp_path: Path) -> None:
    for rate, source, target, expected in (
        (16_000, _noise(rate=16_000), _noise(), ("wrong rate", "source: 16,000 Hz")),
        (48_000, _noise(), _noise()[::-1], ("lag not found", "correlation")),
        (48_000, _noise(), _noise() * 1e-4, ("silent", "target: peak")),
    ):
        with pytest.raises(LeftOut) as left_out:
            _prepare_pair(tmp_path, target, source, rate)
        assert left_out.value.reason == expected[0]
        assert left_out.value.note.startswith(expected[1])


@pytest.mark.parametrize("factor", [-1.0, -0.95])
def test_channels_that_cancel_are_left_out_for_it(tmp_path: Path, factor: float) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 48_000)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([noise, noise * factor], axis=1), 48_000)
    clip = ClipInput(clip_id="a.wav", source=str(path))
    with pytest.raises(LeftOut) as left_out:
        prepare_recording(clip, GEOMETRY, QualityConfig())
    assert left_out.value.reason == "channels cancel"
    assert left_out.value.seconds == 1.0
