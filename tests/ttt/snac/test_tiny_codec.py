"""The tiny codec that ships: a true SNAC whose codes carry information; and its training script."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from snac import SNAC

from ttt.audio import read_audio, resample
from ttt.snac.geometry import CodeGeometry
from ttt.synthetic import tiny_codec
from ttt.synthetic.codebook_training import unheard_voices

ASSET = Path(tiny_codec.__file__).parents[1] / "assets" / "tiny_codec"


@pytest.fixture(scope="module")
def tiny() -> SNAC:
    model = SNAC(**json.loads((ASSET / "config.json").read_text()))
    model.load_state_dict(load_file(ASSET / "model.safetensors"), strict=True)
    return model.eval()


@pytest.fixture(scope="module")
def voices() -> torch.Tensor:
    """Four utterances that neither training nor the script's own figures used."""
    return unheard_voices(tiny_codec.MEASURED_CLIPS + 4, seconds=2.048)[-4:]


def test_the_asset_is_what_the_script_makes(tiny: SNAC) -> None:
    assert json.loads((ASSET / "config.json").read_text()) == tiny_codec.CONFIG
    assert all(tensor.dtype == torch.float32 for tensor in tiny.state_dict().values())
    assert sum((ASSET / name).stat().st_size for name in ("config.json", "model.safetensors")) < 6e6


def test_the_geometry_is_that_of_snac_24khz(tiny: SNAC) -> None:
    published = CodeGeometry.preset("snac_24khz")
    assert CodeGeometry.of(tiny) == dataclasses.replace(published, codebook_size=256)


def test_codes_carry_information_on_voices_never_heard(tiny: SNAC, voices: torch.Tensor) -> None:
    """The right codes beat the same codes half a clip late, and code 0, by a fifth or more."""
    with torch.no_grad():
        codes = tiny.encode(voices)
        right = tiny_codec.spectral_loss(tiny.decode(codes), voices)
        late = [scale.roll(scale.shape[1] // 2, dims=1) for scale in codes]
        rolled = tiny_codec.spectral_loss(tiny.decode(late), voices)
        zeros = tiny_codec.spectral_loss(
            tiny.decode([torch.zeros_like(scale) for scale in codes]), voices
        )
    assert right < 0.8 * rolled
    assert right < 0.8 * zeros


def test_every_scale_matters_and_uses_many_codes(tiny: SNAC, voices: torch.Tensor) -> None:
    with torch.no_grad():
        codes = tiny.encode(voices)
        right = tiny_codec.spectral_loss(tiny.decode(codes), voices)
        for scale in range(3):
            late = [
                c.roll(c.shape[1] // 2, dims=1) if k == scale else c for k, c in enumerate(codes)
            ]
            assert tiny_codec.spectral_loss(tiny.decode(late), voices) > 1.01 * right, scale
    assert all(len(scale.unique()) > 24 for scale in codes)


@pytest.mark.parametrize("name", ["encodec_test48k", "lyra_sample1", "visqol_CA01_01"])
def test_codes_carry_information_on_recorded_speech(
    tiny: SNAC, shared_data: Path, name: str
) -> None:
    channels, rate = read_audio(shared_data / "audio48k" / f"{name}.flac")
    speech = resample(torch.from_numpy(channels[:1, : 6 * rate]), rate, 24_000, sharp=True)
    unit = CodeGeometry.of(tiny).coarse_samples
    speech = speech[None, :, : speech.shape[-1] // unit * unit]
    with torch.no_grad():
        codes = tiny.encode(speech)
        right = tiny_codec.spectral_loss(tiny.decode(codes), speech)
        late = [scale.roll(scale.shape[1] // 2, dims=1) for scale in codes]
        assert right < 0.8 * tiny_codec.spectral_loss(tiny.decode(late), speech)


def test_figures_can_be_measured_again(tiny: SNAC) -> None:
    recorded = json.loads((ASSET / "figures.json").read_text())
    measured = tiny_codec.measure(tiny)
    assert measured["parameters"] == recorded["parameters"]
    assert measured["loss"] == pytest.approx(recorded["loss"], rel=0.02)
    assert measured["lsd_decibels_per_3khz"] == pytest.approx(
        recorded["lsd_decibels_per_3khz"], abs=0.3
    )


def test_training_is_deterministic_through_rounding_and_revival(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_codec, "PLAIN_STEPS", 1)
    monkeypatch.setattr(tiny_codec, "REVIVE_EVERY", 2)
    monkeypatch.setattr(tiny_codec, "MEASURED_CLIPS", 1)
    for name in ("first", "again"):
        tiny_codec.train(tmp_path / name, seed=5, steps=2)
    first, again = (load_file(tmp_path / n / "model.safetensors") for n in ("first", "again"))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert json.loads((tmp_path / "first" / "figures.json").read_text())["steps"] == 2
    SNAC(**tiny_codec.CONFIG).load_state_dict(first, strict=True)


def test_the_command_wants_a_length(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "ttt.synthetic.tiny_codec",
        "--seed",
        "0",
        "--out",
        str(tmp_path),
    ]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 2
    assert "--minutes" in finished.stderr


def test_spectral_loss_is_zero_for_the_same_audio_and_grows_with_the_error() -> None:
    audio = torch.randn(2, 1, 8_192) * 0.1
    assert float(tiny_codec.spectral_loss(audio, audio)) == 0.0
    near, far = (tiny_codec.spectral_loss(audio * gain, audio) for gain in (0.9, 0.5))
    assert 0 < near < far


def test_spectral_loss_has_finite_gradients_in_digital_silence() -> None:
    silence = torch.zeros(1, 1, 8_192, requires_grad=True)
    tiny_codec.spectral_loss(silence, torch.randn(1, 1, 8_192) * 0.1).backward()
    assert silence.grad is not None
    assert torch.isfinite(silence.grad).all()
