"""What training minimises: multi-scale STFT distances, mel and L1, per row, over real audio only.

The default compares Hann-window spectra linearly (levels), logarithmically (weak high bands,
which a linear distance hardly sees) and on a log-mel scale, plus L1 on samples. Beside them it can
compare levels: log powers of bands above the codec's, whose mean over many bins scatters less
than any of them. The preset `seed` keeps the original project's loss verbatim: L1 plus the mean
over three FFT sizes of the L1 distance of linear magnitudes, with a rectangular window.

Each row of a batch has its own mean, over its valid prefix: both signals are silent beyond it,
and only frames centred in it count. So padding has no gradient and no weight, and a row's value
does not depend on the other rows. All of it runs in float32 at least, whatever autocast says.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass

import torch
import torchaudio.functional
from torch import Tensor

from ttt.snac.geometry import TARGET_RATE
from ttt.snac.metrics import CUTOFF_HZ, band_means
from ttt.snac.train.config import LossConfig


def reconstruction_loss(
    estimate: Tensor, target: Tensor, valid_samples: Tensor, config: LossConfig
) -> dict[str, Tensor]:
    """Each row's loss terms, "total" among them: a dict of [B].

    `estimate` and `target` are 48 kHz audio [B, T], `valid_samples` [B] the length of each row's
    prefix that counts; a row with 0 has loss and gradient exactly 0. Terms of weight 0 are left
    out. Raises ValueError when T is too short for the largest FFT.
    """
    largest = max(_recipe(config).all_n_ffts)
    if estimate.shape != target.shape or estimate.ndim != 2:
        raise ValueError(
            f"estimate {tuple(estimate.shape)} and target {tuple(target.shape)} must be [B, T]"
        )
    if estimate.shape[1] <= largest // 2:
        raise ValueError(
            f"{estimate.shape[1]} samples are too short for an FFT of {largest}; use longer "
            "segments or smaller n_ffts"
        )
    with torch.autocast(estimate.device.type, enabled=False):
        return _terms(estimate, target, valid_samples, _recipe(config))


@dataclass(frozen=True)
class _Recipe:
    n_ffts: tuple[int, ...]
    hann: bool
    weights: dict[str, float]
    mels: dict[str, tuple[tuple[int, int], ...]]
    """Mel term -> its scales: FFT size and bands."""
    band_level: tuple[tuple[int, int], ...] = ()
    """FFT sizes of the term of band powers, and their bands; empty without it."""

    @property
    def all_n_ffts(self) -> tuple[int, ...]:
        """Of all terms, each once."""
        of_mels = (n_fft for scales in self.mels.values() for n_fft, _ in scales)
        of_levels = (n_fft for n_fft, _ in self.band_level)
        return tuple(dict.fromkeys((*self.n_ffts, *of_mels, *of_levels)))


_SEED = _Recipe((1024, 2048, 4096), False, {"l1": 1.0, "stft_linear": 1.0}, {})
_MEL_FFT = 2048
_LOG_FLOOR = 1e-5
_POWER_FLOOR = 1e-10
"""Of band powers: white noise of -100 dB, about what rounding to 16 bits leaves."""


def _recipe(config: LossConfig) -> _Recipe:
    if config.preset == "seed":
        return _SEED
    weights = {
        "l1": config.l1_weight,
        "stft_linear": config.linear_weight,
        "stft_log": config.log_weight,
        "mel": config.mel_weight,
        "multi_mel": config.multi_mel_weight,
        "band_level": config.band_level_weight,
    }
    scales = {
        "mel": ((_MEL_FFT, config.mel_bands),),
        "multi_mel": tuple(zip(config.multi_mel_n_ffts, config.multi_mel_bands, strict=True)),
    }
    used = {name: weight for name, weight in weights.items() if weight > 0}
    mels = {name: each for name, each in scales.items() if name in used}
    levels = [(n_fft, config.band_level_bands) for n_fft in config.band_level_n_ffts]
    band_level = tuple(levels) if "band_level" in used else ()
    return _Recipe(config.n_ffts, True, used, mels, band_level)


def _terms(
    estimate: Tensor, target: Tensor, valid_samples: Tensor, recipe: _Recipe
) -> dict[str, Tensor]:
    dtype = torch.promote_types(estimate.dtype, torch.float32)
    valid = valid_samples.to(estimate.device)
    beyond = torch.arange(estimate.shape[1], device=estimate.device) >= valid[:, None]
    estimate = estimate.to(dtype).masked_fill(beyond, 0)
    target = target.to(dtype).masked_fill(beyond, 0)

    sums = {name: estimate.new_zeros(len(estimate)) for name in recipe.weights}
    if "l1" in sums:
        sums["l1"] = _row_mean((estimate - target).abs()[:, None], valid)
    for n_fft in recipe.all_n_ffts:
        of_estimate = _magnitude(estimate, n_fft, recipe.hann)
        of_target = _magnitude(target, n_fft, recipe.hann)
        # Frame t is centred on sample t * hop; a prefix of T samples has 1 + T // hop of them.
        frames = torch.where(valid > 0, valid // (n_fft // 4) + 1, 0)
        if "stft_linear" in sums and n_fft in recipe.n_ffts:
            sums["stft_linear"] += _row_mean((of_estimate - of_target).abs(), frames) / len(
                recipe.n_ffts
            )
        if "stft_log" in sums and n_fft in recipe.n_ffts:
            distance = (_log(of_estimate) - _log(of_target)).abs()
            sums["stft_log"] += _row_mean(distance, frames) / len(recipe.n_ffts)
        for name, scales in recipe.mels.items():
            for n_bands in (count for size, count in scales if size == n_fft):
                bands = _mel_filters(n_fft, n_bands, dtype, estimate.device)
                distance = (_log(bands @ of_estimate) - _log(bands @ of_target)).abs()
                sums[name] = sums[name] + _row_mean(distance, frames)
        for n_bands in (count for size, count in recipe.band_level if size == n_fft):
            levels = [_band_levels(each, n_bands) for each in (of_estimate, of_target)]
            distance = _row_mean((levels[0] - levels[1]).abs(), frames)
            sums["band_level"] = sums["band_level"] + distance / len(recipe.band_level)
    sums["total"] = sum(
        (weight * sums[name] for name, weight in recipe.weights.items()),
        start=estimate.new_zeros(len(estimate)),
    )
    return sums


def _magnitude(audio: Tensor, n_fft: int, hann: bool) -> Tensor:
    """[B, T] -> [B, n_fft // 2 + 1, 1 + T // hop]; abs of a complex 0 has gradient 0, not NaN."""
    make_window = torch.hann_window if hann else torch.ones
    window = make_window(n_fft, dtype=audio.dtype, device=audio.device)
    return torch.stft(audio, n_fft, n_fft // 4, window=window, return_complex=True).abs()


def _log(magnitude: Tensor) -> Tensor:
    return magnitude.clamp(min=_LOG_FLOOR).log10()


def _band_levels(magnitude: Tensor, bands: int) -> Tensor:
    """Log10 powers [B, bands, frames] of equal bands from 12 to 24 kHz: 0 for white noise of 1.

    A band's power is the mean over its bins, as in `ttt.snac.metrics`.
    """
    n_fft = 2 * (magnitude.shape[1] - 1)
    means = _band_means(n_fft, bands, magnitude.dtype, magnitude.device)
    # A sample's variance is multiplied by the Hann window's sum of squares, 3 n / 8, in a bin.
    power = means @ magnitude.square() / (3 / 8 * n_fft)
    return power.clamp(min=_POWER_FLOOR).log10()


def _row_mean(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of [B, F, T] over all F and each row's first `counts` of T; 0 where that is 0."""
    inside = torch.arange(values.shape[-1], device=values.device) < counts[:, None]
    sums = values.masked_fill(~inside[:, None], 0).sum(dim=(1, 2))
    return sums / (values.shape[1] * counts.clamp(min=1))


@functools.cache
def _mel_filters(n_fft: int, bands: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Outside inference mode, so that training may use what a validation made first. Where bands
    # are narrower than bins some stay empty, of which torchaudio warns: they add nothing.
    with torch.inference_mode(False), warnings.catch_warnings(action="ignore"):
        filters = torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1,
            0.0,
            TARGET_RATE / 2,
            bands,
            TARGET_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        return filters.T.contiguous().to(device, dtype)


@functools.cache
def _band_means(n_fft: int, bands: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return band_means(n_fft, CUTOFF_HZ, bands, torch.empty(0, dtype=dtype, device=device))
