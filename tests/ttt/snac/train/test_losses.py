"""The losses against NumPy and the original's formula, and what padding may not do."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio.functional

from ttt.snac.train.config import LossConfig
from ttt.snac.train.losses import reconstruction_loss

DEFAULT = LossConfig()
SEED = LossConfig(preset="seed")
LEVELS = LossConfig(band_level_weight=0.5)
BOTH = pytest.mark.parametrize("config", [DEFAULT, SEED], ids=["default", "seed"])
ALL = pytest.mark.parametrize(
    "config", [DEFAULT, SEED, LEVELS], ids=["default", "seed", "band levels"]
)


def pair(rows=3, samples=8192, dtype=torch.float32):
    return torch.randn(2, rows, samples, dtype=dtype) * 0.1


def full(audio):
    return torch.full((len(audio),), audio.shape[1])


def original_loss(estimate, target):
    """The original project's training loss, as its script computes it for a batch."""
    loss = 0.0
    for n_fft in (1024, 2048, 4096):
        a = torch.stft(estimate, n_fft, n_fft // 4, window=None, return_complex=True).abs()
        b = torch.stft(target, n_fft, n_fft // 4, window=None, return_complex=True).abs()
        loss = loss + torch.nn.functional.l1_loss(a, b)
    return torch.nn.functional.l1_loss(estimate, target) + loss / 3


@pytest.mark.filterwarnings("ignore:A window was not provided")
def test_the_seed_preset_is_the_originals_loss():
    estimate, target = pair(rows=4)
    rows = reconstruction_loss(estimate, target, full(estimate), SEED)
    torch.testing.assert_close(
        rows["total"].mean(), original_loss(estimate, target), rtol=1e-6, atol=1e-6
    )
    for i in range(4):
        one = original_loss(estimate[i : i + 1], target[i : i + 1])
        torch.testing.assert_close(rows["total"][i], one, rtol=1e-6, atol=1e-6)


def numpy_magnitude(x, n_fft):
    """Hann-window magnitudes of frames centred on every quarter of n_fft, edges mirrored."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    x = np.pad(x, n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(x, n_fft)[:: n_fft // 4]
    return np.abs(np.fft.rfft(frames * hann))


def numpy_log(magnitude):
    return np.log10(np.maximum(magnitude, 1e-5))


def test_the_default_equals_numpy():
    estimate, target = pair(rows=2, dtype=torch.float64)
    target[1, 4000:] = 0.0  # digital silence, where the floor of the log matters
    terms = reconstruction_loss(estimate, target, full(estimate), DEFAULT)
    mel = torchaudio.functional.melscale_fbanks(
        1025, 0.0, 24000.0, 80, 48000, norm="slaney", mel_scale="slaney"
    ).numpy()
    for row in range(2):
        e, t = estimate[row].numpy(), target[row].numpy()
        sizes = (512, 1024, 2048, 4096)
        spectra = {n: (numpy_magnitude(e, n), numpy_magnitude(t, n)) for n in sizes}
        linear = np.mean([np.abs(a - b).mean() for a, b in spectra.values()])
        log = np.mean([np.abs(numpy_log(a) - numpy_log(b)).mean() for a, b in spectra.values()])
        in_mel = [numpy_log(spectrum @ mel) for spectrum in spectra[2048]]
        expected = {
            "l1": np.abs(e - t).mean(),
            "stft_linear": linear,
            "stft_log": log,
            "mel": np.abs(in_mel[0] - in_mel[1]).mean(),
        }
        expected["total"] = sum(expected.values())
        assert terms.keys() == expected.keys()
        for name, value in expected.items():
            assert terms[name][row].item() == pytest.approx(value, rel=1e-6), name


@ALL
def test_what_lies_beyond_the_valid_prefix_has_no_value_and_no_gradient(config):
    estimate, target = pair()
    valid = torch.tensor([8192, 5000, 0])
    expected = reconstruction_loss(estimate, target, valid, config)["total"]
    spoilt = estimate.clone()
    spoilt[1, 5000:], spoilt[2] = torch.nan, torch.inf
    target[1, 5000:] = 7.0
    spoilt.requires_grad_(True)
    rows = reconstruction_loss(spoilt, target, valid, config)["total"]
    assert torch.equal(rows, expected)
    assert rows[2] == 0
    rows.sum().backward()
    assert spoilt.grad.isfinite().all()
    assert spoilt.grad[1, 5000:].count_nonzero() == 0
    assert spoilt.grad[2].count_nonzero() == 0
    assert spoilt.grad[1, :5000].count_nonzero() > 4900


@ALL
def test_a_row_does_not_depend_on_its_batch(config):
    estimate, target = pair()
    valid = torch.tensor([8192, 6000, 300])
    together = reconstruction_loss(estimate, target, valid, config)
    for i in range(3):
        alone = reconstruction_loss(estimate[[i]], target[[i]], valid[[i]], config)
        for name, value in alone.items():
            torch.testing.assert_close(value[0], together[name][i], rtol=1e-5, atol=1e-7)


def test_means_are_over_the_prefix_and_not_over_the_padding():
    samples = 48_000
    estimate, target = torch.randn(2, 1, samples) * 0.1
    whole = reconstruction_loss(estimate, target, torch.tensor([samples]), DEFAULT)
    half = reconstruction_loss(estimate, target, torch.tensor([samples // 2]), DEFAULT)
    for name in whole:  # stationary noise: the same mean on half of it, not half the mean
        assert half[name].item() == pytest.approx(whole[name].item(), rel=0.05), name


@ALL
def test_gradients_at_silence_are_numbers(config):
    estimate = torch.zeros(1, 8192, requires_grad=True)
    for target in (torch.zeros(1, 8192), torch.randn(1, 8192)):
        loss = reconstruction_loss(estimate, target, full(target), config)["total"]
        (gradient,) = torch.autograd.grad(loss.sum(), estimate)
        assert gradient.isfinite().all()


@ALL
def test_bfloat16_does_not_reach_the_spectra(config):
    estimate, target = pair()
    expected = reconstruction_loss(estimate, target, full(estimate), config)
    with torch.autocast("cpu", torch.bfloat16):
        found = reconstruction_loss(estimate, target, full(estimate), config)
        half = reconstruction_loss(estimate.bfloat16(), target, full(estimate), config)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert half["total"].dtype == torch.float32


def test_training_after_a_validation_in_inference_mode():
    config = LossConfig(mel_bands=33)  # filters nobody made yet
    estimate, target = pair()
    with torch.inference_mode():
        reconstruction_loss(estimate, target, full(estimate), config)
    estimate.requires_grad_(True)
    reconstruction_loss(estimate, target, full(target), config)["total"].sum().backward()
    assert estimate.grad.isfinite().all()


def test_a_missing_high_band_is_dear_in_the_default_and_cheap_in_the_seeds_loss():
    rate, samples = 48_000, 24_000
    band = torch.fft.rfftfreq(samples, 1 / rate)
    spectrum = torch.fft.rfft(torch.randn(1, samples)) / (1 + (band / 500) ** 1.5)
    target = torch.fft.irfft(spectrum, samples)
    dull = torch.fft.irfft(spectrum * (band < 12_000), samples)
    wrong_level = torch.fft.irfft(spectrum * torch.where(band < 12_000, 1.2, 1.0), samples)

    def ratio(config):
        missing, louder = (
            reconstruction_loss(x, target, full(x), config)["total"] for x in (dull, wrong_level)
        )
        return (missing / louder).item()

    assert ratio(SEED) < 1
    assert ratio(DEFAULT) > 5 * ratio(SEED)


def test_terms_of_weight_0_are_left_out():
    estimate, target = pair(rows=1)
    terms = reconstruction_loss(
        estimate, target, full(estimate), LossConfig(mel_weight=0, l1_weight=0, log_weight=3)
    )
    assert terms.keys() == {"stft_linear", "stft_log", "total"}
    torch.testing.assert_close(terms["total"], terms["stft_linear"] + 3 * terms["stft_log"])


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"n_ffts": ()}, "n_ffts must be powers of two"),
        ({"n_ffts": (1000,)}, "n_ffts must be powers of two from 16 up, got \\(1000,\\)"),
        ({"l1_weight": -1}, "l1_weight must not be negative"),
        (dict.fromkeys(["l1_weight", "linear_weight", "log_weight", "mel_weight"], 0), "are 0"),
        ({"mel_bands": 500}, "mel_bands must lie in 8..160"),
        ({"preset": "seed", "mel_weight": 2}, "does not read mel_weight; remove it"),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        LossConfig(**settings)


def test_bad_shapes_are_refused():
    audio = torch.zeros(1, 2048)
    with pytest.raises(ValueError, match="2048 samples are too short for an FFT of 4096"):
        reconstruction_loss(audio, audio, full(audio), DEFAULT)
    with pytest.raises(ValueError, match="must be \\[B, T\\]"):
        reconstruction_loss(audio[:, None], audio[:, None], full(audio), DEFAULT)


def test_the_mel_of_seven_scales_is_the_sum_of_the_mels_of_each() -> None:
    """With one scale of 2,048 it is the mel term itself."""
    random = torch.Generator().manual_seed(0)
    estimate, target = (0.1 * torch.randn(2, 9000, generator=random) for _ in range(2))
    valid = torch.tensor([9000, 5000])

    def terms(**keys: Any) -> dict[str, torch.Tensor]:
        weights = {"l1_weight": 0, "linear_weight": 0, "log_weight": 0, "mel_weight": 0}
        return reconstruction_loss(estimate, target, valid, LossConfig(**{**weights, **keys}))

    seven = LossConfig(multi_mel_weight=15)
    whole = terms(multi_mel_weight=15)
    torch.testing.assert_close(whole["total"], 15 * whole["multi_mel"])
    scales = zip(seven.multi_mel_n_ffts, seven.multi_mel_bands, strict=True)
    each = [
        terms(multi_mel_weight=1, multi_mel_n_ffts=(n_fft,), multi_mel_bands=(bands,))["multi_mel"]
        for n_fft, bands in scales
    ]
    torch.testing.assert_close(whole["multi_mel"], torch.stack(each).sum(0))
    one = terms(multi_mel_weight=1, multi_mel_n_ffts=(2048,), multi_mel_bands=(80,), mel_weight=1)
    assert torch.equal(one["multi_mel"], one["mel"])
    with pytest.raises(ValueError, match="multi_mel_bands must be one number from 1 up for each"):
        LossConfig(multi_mel_bands=(5, 10))
    with pytest.raises(ValueError, match="preset seed is the original's loss verbatim"):
        LossConfig(preset="seed", multi_mel_weight=15)


def numpy_band_levels(x, n_fft, bands):
    """Log10 power densities of equal bands from 12 to 24 kHz, white noise of variance 1 at 0."""
    power = numpy_magnitude(x, n_fft) ** 2 / (np.hanning(n_fft + 1)[:-1] ** 2).sum()
    hertz = np.arange(n_fft // 2 + 1) * 48_000 / n_fft
    edges = np.linspace(12_000, 24_000, bands + 1)
    edges[-1] += 1
    runs = [(hertz >= low) & (hertz < high) for low, high in itertools.pairwise(edges)]
    return np.log10(np.maximum([power[:, run].mean(axis=1) for run in runs], 1e-10))


@pytest.mark.parametrize("bands", [1, 7, 16, 128])
def test_band_levels_equal_numpy(bands):
    estimate, target = pair(rows=2, dtype=torch.float64)
    target[1, 4000:] = 0.0
    config = LossConfig(band_level_weight=0.5, band_level_bands=bands)
    terms = reconstruction_loss(estimate, target, full(estimate), config)
    for row in range(2):
        e, t = estimate[row].numpy(), target[row].numpy()
        levels = [[numpy_band_levels(x, n, bands) for x in (e, t)] for n in (512, 2048, 8192)]
        expected = np.mean([np.abs(a - b).mean() for a, b in levels])
        assert terms["band_level"][row].item() == pytest.approx(expected, rel=1e-6)
    names = ("l1", "stft_linear", "stft_log", "mel")
    total = sum(terms[name] for name in names) + 0.5 * terms["band_level"]
    torch.testing.assert_close(terms["total"], total)


@pytest.mark.parametrize("gain_db", [-20.0, -6.0, 3.0, 12.0])
def test_band_levels_tell_a_level_and_nothing_below_the_band(gain_db):
    """A gain above 12 kHz is its decades of power; the same gain below is not seen."""
    silent = {"l1_weight": 0, "linear_weight": 0, "log_weight": 0, "mel_weight": 0}
    only = LossConfig(**silent, band_level_weight=1)
    noise = 0.1 * torch.randn(1, 32_768, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft(noise.double())
    gain = torch.full((len(spectrum[0]),), 10 ** (gain_db / 20), dtype=torch.float64)
    for start in (8192, 0):
        scaled = torch.fft.irfft(torch.where(torch.arange(16_385) >= start, gain, 1) * spectrum)
        found = reconstruction_loss(scaled, noise.double(), full(noise), only)["band_level"]
        assert found.item() == pytest.approx(abs(gain_db) / 10, rel=0.05)
    # Below the band: up to a kilohertz short of it, further than the shortest window smears.
    lower = torch.fft.irfft(torch.where(torch.arange(16_385) < 7500, gain, 1) * spectrum)
    assert reconstruction_loss(lower, noise.double(), full(noise), only)["band_level"] < 1e-3


@BOTH
def test_without_its_weight_there_is_no_band_level(config):
    estimate, target = pair()
    assert "band_level" not in reconstruction_loss(estimate, target, full(estimate), config)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"band_level_bands": 0}, "band_level_bands must lie in 1..128, a quarter of the smallest"),
        ({"band_level_bands": 129}, "band_level_bands must lie in 1..128"),
        ({"band_level_n_ffts": (500,)}, "band_level_n_ffts must be powers of two from 16 up"),
        ({"band_level_n_ffts": ()}, "band_level_n_ffts must be powers of two from 16 up"),
        ({"band_level_weight": -1.0}, "band_level_weight must not be negative"),
        ({"preset": "seed", "band_level_weight": 0.5}, "preset seed is the original's loss"),
    ],
)
def test_band_levels_that_cannot_be_are_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        LossConfig(**keys)
