"""Metrics against values worked out by hand and against NumPy and SciPy."""

import math

import numpy as np
import pytest
import scipy.signal
import torch

from ttt.audio import resample
from ttt.snac.metrics import (
    METRICS,
    all_metrics,
    envelope_correlation,
    l1,
    log_spectral_distance,
    lsd_bands,
    lsd_hf_shape,
    si_sdr,
)


def scipy_log_power(x, n_fft, hop):
    x = np.pad(x, n_fft // 2, mode="reflect")
    hann = scipy.signal.get_window("hann", n_fft)
    spectrum = scipy.signal.ShortTimeFFT(hann, hop, fs=1, scale_to=None)
    starts = range(0, len(x) - n_fft + 1, hop)
    frames = np.stack([x[start : start + n_fft] * spectrum.win for start in starts])
    return np.log10(np.maximum(np.abs(scipy.fft.rfft(frames)) ** 2, 1e-8))


@pytest.mark.parametrize("n_fft, hop", [(2048, 512), (1024, 200)])
def test_lsd_equals_scipy(n_fft, hop):
    estimate, reference = torch.randn(2, 3, 10_000, dtype=torch.float64) * 0.1
    reference[1, 3000:7000] = 0.0
    found = log_spectral_distance(estimate, reference, n_fft, hop)
    bands = lsd_bands(estimate, reference, n_fft, hop)
    for row in range(3):
        d = scipy_log_power(estimate[row].numpy(), n_fft, hop) - scipy_log_power(
            reference[row].numpy(), n_fft, hop
        )
        cutoff = n_fft // 4  # the bin at 12 kHz
        expected = {
            "lsd": np.sqrt((d**2).mean(axis=1)).mean(),
            "lsd_lf": np.sqrt((d[:, :cutoff] ** 2).mean(axis=1)).mean(),
            "lsd_hf": np.sqrt((d[:, cutoff:] ** 2).mean(axis=1)).mean(),
        }
        assert found[row].item() == pytest.approx(expected["lsd"], rel=1e-9)
        for name, value in expected.items():
            assert bands[name][row].item() == pytest.approx(value, rel=1e-9), name


def test_a_tenth_of_the_amplitude_is_two_decades_of_power():
    reference = torch.randn(2, 48_000)
    torch.testing.assert_close(
        log_spectral_distance(reference / 10, reference), torch.full((2,), 2.0), rtol=0, atol=1e-3
    )
    assert log_spectral_distance(reference, reference).tolist() == [0.0, 0.0]


def test_silence_is_eight_decades_below_power_one():
    # Frames of a constant c: |S(0)|^2 = (1024 c)^2, two side bins a quarter of it, 0 elsewhere.
    constant = torch.full((1, 8192), 1 / 1024, dtype=torch.float64)
    at_dc, beside = 8.0, 8.0 + math.log10(0.25)
    expected = math.sqrt((at_dc**2 + beside**2) / 1025)
    found = log_spectral_distance(torch.zeros_like(constant), constant)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_shapes_with_and_without_a_channel_are_the_same():
    estimate, reference = torch.randn(2, 3, 9000)
    expected = all_metrics(estimate, reference)
    assert tuple(expected) == METRICS
    for name, value in all_metrics(estimate[:, None], reference[:, None]).items():
        assert value.shape == (3,)
        assert torch.equal(value, expected[name])


def slow_env_r(estimate, reference):
    """Band by band and frame by frame."""
    envelopes = []
    for x in (estimate, reference):
        x = np.pad(x, 1024, mode="reflect")
        hann = scipy.signal.get_window("hann", 2048)
        bands = [[] for _ in range(16)]
        for start in range(0, len(x) - 2047, 512):
            power = np.abs(np.fft.rfft(x[start : start + 2048] * hann)) ** 2
            for k, band in enumerate(bands):
                low, high = 12_600 + k * 712.5, 12_600 + (k + 1) * 712.5
                bins = [b for b in range(1025) if low <= b * 48_000 / 2048 < high]
                bins += [1024] * (k == 15)
                band.append(math.log10(max(1e-8, np.mean(power[bins]))))
        envelopes.append(bands)
    found = []
    for ours, truth in zip(*envelopes, strict=True):
        if np.std(truth) >= 1e-3:
            found.append(0.0 if np.std(ours) < 1e-3 else np.corrcoef(ours, truth)[0, 1])
    return np.mean(found) if found else math.nan


def pulsing(samples, seed=0, dtype=torch.float64):
    """Noise that comes and goes over all bands."""
    generator = torch.Generator().manual_seed(seed)
    swell = 1 + torch.sin(torch.arange(samples, dtype=dtype) / 3_000)
    return 0.1 * swell * torch.randn(samples, generator=generator, dtype=dtype)


def test_env_r_equals_a_slow_oracle():
    truth = pulsing(14_000)
    other = 0.3 * truth + 0.02 * torch.randn(14_000, dtype=torch.float64)
    partly = torch.cat([torch.zeros(9_000, dtype=torch.float64), truth[9_000:]])
    spectrum = torch.fft.rfft(truth)
    spectrum[5_000:] = 0  # from 17.1 kHz on at the floor, where the envelope is constant
    low_band = torch.fft.irfft(spectrum, len(truth))
    for estimate, reference in (
        (other, truth), (truth, other), (partly, truth), (truth, partly), (low_band, truth),
        (truth, low_band),
    ):  # fmt: skip
        found = envelope_correlation(estimate[None], reference[None])
        assert found.item() == pytest.approx(slow_env_r(estimate.numpy(), reference.numpy()))


def test_env_r_is_blind_to_level_and_cannot_be_won_by_hiss():
    truth = pulsing(96_000, dtype=torch.float32)[None]
    assert envelope_correlation(truth, truth).item() == pytest.approx(1)
    assert envelope_correlation(0.1 * truth, truth).item() == pytest.approx(1, abs=1e-6)
    right_envelope = pulsing(96_000, seed=1, dtype=torch.float32)[None]
    assert envelope_correlation(right_envelope, truth) > 0.5
    for level in (1e-4, 1e-2, 1):
        assert abs(envelope_correlation(level * torch.randn(1, 96_000), truth)) < 0.1


def test_env_r_where_it_is_undefined():
    """Nothing to follow is no number; following nothing is 0; no number stays none."""
    truth = pulsing(20_000)[None]
    silence = torch.zeros_like(truth)
    assert envelope_correlation(truth, silence).isnan().all()
    assert envelope_correlation(silence, silence).isnan().all()
    assert envelope_correlation(silence, truth).item() == 0
    broken = truth.clone()
    broken[0, 5] = math.nan
    assert envelope_correlation(broken, truth).isnan().all()
    assert all_metrics(broken, truth)["lsd"].isnan().all()


def test_si_sdr_by_hand():
    t = torch.arange(4800, dtype=torch.float64) / 48_000
    reference = torch.sin(2 * torch.pi * 100 * t)[None]
    orthogonal = torch.cos(2 * torch.pi * 100 * t)[None]
    estimate = 3 * reference + 0.3 * orthogonal + 5  # 20 dB; neither scale nor offset counts
    assert si_sdr(estimate, reference).item() == pytest.approx(20.0, abs=1e-9)
    assert si_sdr(-2 * estimate, reference).item() == pytest.approx(20.0, abs=1e-9)


def test_si_sdr_at_its_ends():
    reference = torch.randn(1, 1000)
    assert si_sdr(reference, reference).item() == pytest.approx(100.0)
    assert si_sdr(torch.zeros(1, 1000), reference).item() == pytest.approx(-100.0)
    assert si_sdr(reference, torch.zeros(1, 1000)).isnan().all()


def test_l1_by_hand():
    assert l1(torch.tensor([[1.0, -1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0, 1.0]])) == 1.0


def test_noise_wins_on_lsd_alone_and_loses_on_all_it_must_be_shown_with():
    generator = torch.Generator().manual_seed(0)
    samples, rate = 96_000, 48_000
    band = torch.fft.rfftfreq(samples, 1 / rate)
    noise = torch.randn(1, samples, generator=generator)
    tilt = 1 / (1 + (band / 2_000))
    reference = 0.3 * torch.fft.irfft(torch.fft.rfft(noise) * tilt, samples)
    resampled = resample(resample(reference, 48_000, 24_000), 24_000, 48_000)
    untrained = reference.std() * torch.randn(1, samples, generator=generator)
    noisy, plain = all_metrics(untrained, reference), all_metrics(resampled, reference)
    assert noisy["lsd"] < plain["lsd"]
    assert noisy["lsd_hf"] < plain["lsd_hf"]
    assert noisy["lsd_lf"] > plain["lsd_lf"]
    assert noisy["l1"] > plain["l1"]
    assert noisy["si_sdr"] < plain["si_sdr"]


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="must be equal"):
        l1(torch.zeros(1, 10), torch.zeros(1, 11))
    with pytest.raises(ValueError, match="1000 samples are too short for frames of 2048"):
        log_spectral_distance(torch.zeros(1, 1000), torch.zeros(1, 1000))


def test_the_shape_of_the_top_octave_by_hand():
    """From the definition: the median over frames and bins from 12 kHz, then LSD-HF."""
    estimate, reference = 0.1 * torch.randn(2, 3, 20_001, dtype=torch.float64)
    window = np.hanning(2049)[:-1]

    def logs(audio):
        padded = np.pad(audio, 1024, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, 2048)[::512]
        power = np.abs(np.fft.rfft(frames * window)) ** 2
        return np.log10(np.maximum(power, 1e-8))[:, 512:]

    found = lsd_hf_shape(estimate, reference)
    for ours, truth, value in zip(estimate.numpy(), reference.numpy(), found.tolist(), strict=True):
        difference = logs(ours) - logs(truth)
        difference -= np.sort(difference, axis=None)[(difference.size - 1) // 2]
        assert value == pytest.approx(np.sqrt((difference**2).mean(axis=1)).mean(), rel=1e-9)


def test_the_shape_is_blind_to_level_and_to_nothing_else():
    estimate, reference = 0.1 * torch.randn(2, 2, 48_000, dtype=torch.float64)
    shape = lsd_hf_shape(estimate, reference)
    for gain in (0.05, 0.5, 3.0):
        again = lsd_hf_shape(gain * estimate[:, None], reference[:, None])
        torch.testing.assert_close(again, shape, rtol=1e-3, atol=0)  # the floor of 1e-8 is none
        assert lsd_hf_shape(gain * reference, reference).max() < 1e-3
    assert (lsd_bands(0.05 * estimate, reference)["lsd_hf"] > 1.5 * shape).all()
    late = torch.cat([0.1 * estimate[:, :24_000], estimate[:, 24_000:]], dim=1)
    assert (lsd_hf_shape(late, reference) > 1.2 * shape).all()
    assert lsd_hf_shape(torch.full_like(estimate, torch.nan), reference).isnan().all()
