"""The fit finds noise that is known to be missing, and none where none is missing."""

import numpy as np
import pytest
import torch

from ttt.snac.metrics import ENVELOPE_BANDS, lsd_bands
from ttt.snac.noise_floor import NoiseFloor
from ttt.snac.train.floor_fit import HeardWindow, fit_floor

RATE = 48_000


def low_band(number: int, samples: int) -> torch.Tensor:
    """Something below 12 kHz that comes and goes, as speech does."""
    draws = np.random.default_rng(number)
    spectrum = np.fft.rfft(draws.standard_normal(samples))
    spectrum[int(12_000 * samples / RATE) :] = 0
    swell = 0.1 * (1 + np.sin(np.arange(samples) * 2 * np.pi * 3 / RATE + number))
    return torch.from_numpy(np.fft.irfft(spectrum, samples) * swell).float()


def shaped_noise(number: int, samples: int, levels: list[float | None]) -> torch.Tensor:
    """Noise whose bands, the first from 12,450 Hz on, have these levels."""
    spectrum = np.fft.rfft(np.random.default_rng(1000 + number).standard_normal(samples))
    edges, hertz = (
        np.linspace(12_600, 24_000, ENVELOPE_BANDS + 1),
        np.fft.rfftfreq(samples, 1 / RATE),
    )
    band = np.searchsorted(edges, hertz, side="right") - 1
    gains = np.array([0.0 if level is None else 10 ** (level / 20) for level in levels] + [0.0] * 2)
    spectrum *= np.where(hertz < 12_450, 0, gains[band.clip(0)])
    return torch.from_numpy(np.fft.irfft(spectrum, samples)).float()


def windows_without(levels: list[float | None], count: int = 8) -> list[HeardWindow]:
    """A decoder that is right but for this noise, which it does not make at all."""
    heard = []
    for number in range(count):
        samples = RATE // 2 + 1000 * number
        ours = low_band(number, samples)
        heard.append(HeardWindow(ours, ours + shaped_noise(number, samples, levels)))
    return heard


@pytest.mark.parametrize(
    "levels",
    [
        [-60.0] * 16,
        [-90.0] * 16,
        [-45.0 - 2.5 * band for band in range(16)],
        [-70.3 + 3 * np.sin(band) for band in range(16)],
        [*[-65.0] * 10, *[None] * 6],
    ],
    ids=["flat", "quiet", "falling", "wavy", "half"],
)
def test_the_missing_levels_are_found_within_a_decibel(levels):
    fit = fit_floor(windows_without(levels))
    assert fit is not None
    assert fit.floor is not None
    for found, level in zip(fit.floor.levels_db, levels, strict=True):
        if level is None:  # what a neighbour's edge lets through is there in the truth, too
            assert found is None or found < -85
        else:
            assert found == pytest.approx(level, abs=1)
    assert fit.lsd_hf_with < 0.5 * fit.lsd_hf_without
    origin = fit.floor.origin
    assert origin is not None
    assert (origin.windows, origin.lsd_hf_without) == (8, fit.lsd_hf_without)
    assert f"{fit.lsd_hf_without:.3f} without, {fit.lsd_hf_with:.3f} with it" in fit.sentence


def test_its_numbers_are_those_of_the_metric():
    heard = windows_without([-60.0] * 16, count=3)
    fit = fit_floor(heard)
    assert fit is not None
    expected = [lsd_bands(w.ours[None], w.truth[None])["lsd_hf"].item() for w in heard]
    assert fit.lsd_hf_without == pytest.approx(np.mean(expected))


def test_it_follows_from_its_arguments_alone():
    heard = windows_without([-60.0 - band for band in range(16)], count=3)
    torch.manual_seed(1)
    first = fit_floor(heard, seed=5, folds=3)
    torch.manual_seed(2)
    second = fit_floor(heard, seed=5, folds=3)
    assert first == second
    assert first is not None
    assert first.floor is not None
    assert first.floor.origin is not None
    assert (first.floor.seed, first.floor.origin.folds) == (5, 3)


@pytest.mark.parametrize("case", ["perfect", "as noisy", "too noisy", "silent"])
def test_a_decoder_that_needs_none_gets_none(case):
    heard = windows_without([-60.0] * 16)
    if case == "perfect":
        heard = [HeardWindow(each.truth, each.truth) for each in heard]
    elif case == "as noisy":
        others = windows_without([-60.0] * 16, count=9)[1:]
        heard = [
            HeardWindow(theirs.truth[: len(each.ours)], each.truth)
            for each, theirs in zip(heard, others, strict=True)
        ]
    elif case == "too noisy":
        heard = [HeardWindow(each.truth, each.ours) for each in heard]
    else:
        heard = [HeardWindow(torch.zeros(RATE), torch.zeros(RATE))]
    fit = fit_floor(heard)
    assert fit is not None
    assert fit.floor is None
    assert fit.lsd_hf_with == fit.lsd_hf_without
    assert fit.sentence.startswith("no noise floor: none lowers LSD-HF")


def test_what_lowers_bands_and_not_the_mean_is_not_taken(monkeypatch):
    """The real filter has the last word: here one that is far too loud."""
    loud = NoiseFloor((0.0,) * 16)
    monkeypatch.setattr(
        NoiseFloor,
        "add_to",
        lambda _, audio, first: audio.add_(loud.noise(first, audio.shape[1], audio)),
    )
    fit = fit_floor(windows_without([-60.0] * 16, count=2))
    assert fit is not None
    assert fit.floor is None
    assert fit.lsd_hf_with > fit.lsd_hf_without


def test_nothing_to_fit_is_no_fit():
    assert fit_floor([]) is None
    assert fit_floor([HeardWindow(torch.full((RATE,), torch.nan), torch.zeros(RATE))]) is None
