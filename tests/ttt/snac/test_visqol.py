"""ViSQOL against the scores of the original program, and what hiss makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ttt.audio import through_rate
from ttt.errors import UserError
from ttt.snac.evaluation import visqol
from ttt.snac.evaluation.tricks import high_passed, white_noise
from ttt.snac.evaluation.visqol import NotScored, visqol_score
from ttt.snac.metrics import log_spectral_distance
from ttt.synthetic.voice import utterance

RATE = 48_000

installed = pytest.mark.skipif(
    not visqol.is_installed(), reason="ViSQOL is not installed: make setup METRICS=1"
)


@pytest.fixture(scope="session")
def golden(shared_data: Path) -> Path:
    folder = shared_data.parent / "golden" / "visqol"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


REFERENCES = {
    "strauss48_stereo_lp35": "strauss48_stereo",
    "steely48_stereo_lp7": "steely48_stereo",
    "ravel48_stereo_128kbps_opus": "ravel48_stereo",
}


@installed
@pytest.mark.parametrize("name", REFERENCES)
def test_a_score_is_that_of_the_original_program(golden: Path, name: str) -> None:
    """The third pair differs in length: cut to the shorter one it would be off by 3.1e-4."""
    estimate, reference = (
        soundfile.read(golden / f"{each}.flac", dtype="float64")[0].mean(axis=1)
        for each in (name, REFERENCES[name])
    )
    expected = json.loads((golden / "expected.json").read_text())[name]
    score = visqol_score(estimate, reference)
    print(f"{name}: {score:.6f}, off by {abs(score - expected):.1e}")
    assert score == pytest.approx(expected, abs=1e-9)


@installed
@pytest.mark.parametrize("seed", [1, 2])
def test_hiss_hardly_wins_where_it_wins_a_spectral_distance(seed: int) -> None:
    truth = torch.from_numpy(utterance(seed, 2.0).astype(np.float32))
    resampled = through_rate(truth[None], RATE, 24_000)[0]
    noise = high_passed(white_noise(f"clip {seed}", len(truth)))
    hissing = [resampled + 10 ** (level / 20) * noise for level in (-80, -70)]
    plain = visqol_score(resampled.numpy(), truth.numpy())
    gain = max(visqol_score(audio.numpy(), truth.numpy()) for audio in hissing) - plain
    distances = [
        float(log_spectral_distance(audio[None], truth[None])) for audio in (resampled, *hissing)
    ]
    print(f"ViSQOL {plain:.3f} {gain:+.3f}; LSD {distances[0]:.3f} to {min(distances):.3f}")
    assert min(distances) < 0.75 * distances[0]
    assert gain < 0.35, "of a scale from 1 to 4.73"


@installed
def test_the_same_arrays_give_the_same_number_whatever_their_level() -> None:
    voice = utterance(3, 1.5)
    noisy = voice + 0.003 * np.random.default_rng(0).standard_normal(len(voice))
    score = visqol_score(noisy, voice)
    assert visqol_score(noisy, voice) == score
    assert visqol_score(0.5 * noisy, voice) == pytest.approx(score, abs=1e-6)
    assert visqol_score(noisy.astype(np.float32), voice) == pytest.approx(score, abs=1e-4)
    assert score < visqol_score(voice, voice) == pytest.approx(4.732, abs=1e-3)


VOICE = np.sin(np.arange(RATE * 2) / 20)


@pytest.mark.parametrize(
    "estimate, reference, reason",
    [
        (VOICE * 0, VOICE, "the estimate is silent"),
        (VOICE, VOICE * 0, "the reference is silent"),
        (VOICE * np.nan, VOICE, "the estimate holds values that are not finite"),
        (VOICE, np.where(VOICE > 0.999, np.inf, VOICE), "the reference holds values that are not"),
        (VOICE[: RATE - 1], VOICE, "the estimate has 1.00 s, ViSQOL needs 1"),
        (VOICE, VOICE[:0], "the reference has 0.00 s"),
    ],
)
def test_what_has_no_score_is_named(
    estimate: np.ndarray, reference: np.ndarray, reason: str
) -> None:
    with pytest.raises(NotScored, match=reason):
        visqol_score(estimate, reference)


def test_other_rates_and_several_channels_are_refused() -> None:
    with pytest.raises(UserError, match="made for 48000 Hz, got 44100: resample"):
        visqol_score(VOICE, VOICE, 44_100)
    with pytest.raises(UserError, match=r"the estimate is \[2, 48000\]"):
        visqol_score(VOICE.reshape(2, -1), VOICE)


def test_without_the_package_one_sentence_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(visqol, "is_installed", lambda: False)
    visqol._measurer.cache_clear()
    with pytest.raises(UserError, match="ViSQOL is not installed: make setup METRICS=1"):
        visqol_score(VOICE, VOICE)
