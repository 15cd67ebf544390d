"""What decoders are compared by: log-spectral distance by band, envelopes above it, SI-SDR and L1.

No number here stands alone. Untrained noise beats plain resampling on LSD, because it fills the
empty high band; it loses on LSD below 12 kHz, L1 and SI-SDR. Noise that starts above 12 kHz loses
on none of these: only env-r, which asks whether the energy up there comes and goes with the
truth's, tells it from a decoder that knows. env-r in turn is blind to level. Report them together.

Audio is [B, T] or [B, 1, T] at 48 kHz, two equal shapes; every metric is [B].
"""

from __future__ import annotations

import torch
from torch import Tensor

from ttt.snac.geometry import TARGET_RATE

CUTOFF_HZ = 12_000
"""Where the 24 kHz codec's band ends and the head's own begins."""

FRAME, HOP, FLOOR = 2048, 512, 1e-8
"""Of every spectrum here: samples in and between frames, and the power below which it ends."""
ENVELOPE_BANDS = 16
"""Equal bands of `envelope_correlation`, from ENVELOPE_START_HZ to the top."""
ENVELOPE_START_HZ = 12_600
"""Above CUTOFF_HZ by as much as a resampler's slope needs to fall."""

METRICS: tuple[str, ...] = ("lsd", "lsd_lf", "lsd_hf", "env_r", "si_sdr", "l1")
"""The keys of `all_metrics`."""


def log_spectral_distance(
    estimate: Tensor, reference: Tensor, n_fft: int = FRAME, hop: int = HOP
) -> Tensor:
    """LSD in the definition of AP-BWE, lower is better.

    Base-10 log of the Hann-window power spectrum clamped at 1e-8, root of the mean square
    difference over frequency, mean over frames. Raises ValueError for unequal shapes.
    """
    estimate_power, reference_power = _powers(estimate, reference, n_fft, hop)
    return _root_mean_square(log_power(estimate_power) - log_power(reference_power))


def lsd_bands(
    estimate: Tensor, reference: Tensor, n_fft: int = FRAME, hop: int = HOP
) -> dict[str, Tensor]:
    """LSD of all bins ("lsd"), of those below 12 kHz ("lsd_lf") and from there up ("lsd_hf")."""
    return _lsd_bands(*_powers(estimate, reference, n_fft, hop), n_fft)


def lsd_hf_shape(estimate: Tensor, reference: Tensor) -> Tensor:
    """LSD-HF without the clip's own level error: the shape of the top octave, never a verdict.

    As LSD-HF, but from the difference of the logs the median over all its frames and bins from
    12 kHz up is taken first (the lower one of two in the middle), one number per clip. A signal
    that is right but for one gain has about 0, and so has nothing to say of how loud it is.
    """
    powers = _powers(estimate, reference, FRAME, HOP)
    ours, truth = (log_power(power[:, CUTOFF_HZ * FRAME // TARGET_RATE :]) for power in powers)
    difference = ours - truth
    offset = difference.flatten(1).median(dim=1).values
    return _root_mean_square(difference - offset[:, None, None])


def envelope_correlation(estimate: Tensor, reference: Tensor) -> Tensor:
    """env-r: does the energy above the codec's band move as the truth's does? 1 is best.

    Pearson's correlation over time of log band energies, 16 equal bands from 12.6 to 24 kHz in
    Hann frames of 2,048 every 512 samples, mean over bands. Scaling a signal changes nothing, and
    what ignores the reference is at 0 on average.

    A band's energy is the mean power of its bins, not below 1e-8. An envelope that moves by less
    than 0.01 dB (standard deviation) is constant. Bands in which the reference is constant are
    left out, NaN when all are: there is nothing to follow. In the others a constant estimate,
    such as silence, follows nothing and counts 0. NaN in the estimate gives NaN.
    """
    return _envelope_correlation(*_powers(estimate, reference, FRAME, HOP))


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019), higher is better.

    Both signals without their means. Limited to -100..100 dB, so that an exact copy stays a
    finite number; NaN where the reference is silent, since there is no such ratio.
    """
    estimate, reference = _rows(estimate, reference)
    estimate = estimate - estimate.mean(dim=1, keepdim=True)
    reference = reference - reference.mean(dim=1, keepdim=True)
    energy = reference.square().sum(dim=1, keepdim=True)
    projection = (estimate * reference).sum(dim=1, keepdim=True) / energy * reference
    signal = projection.square().sum(dim=1)
    distortion = (estimate - projection).square().sum(dim=1)
    # A silent estimate is 0 / 0 here; it has nothing of the reference.
    ratio = torch.where(signal > 0, signal / distortion, signal)
    return 10 * ratio.clamp(1e-10, 1e10).log10()


def l1(estimate: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute difference of samples."""
    estimate, reference = _rows(estimate, reference)
    return (estimate - reference).abs().mean(dim=1)


def all_metrics(estimate: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """Everything a report shows together, by the names in METRICS."""
    powers = _powers(estimate, reference, FRAME, HOP)
    return {
        **_lsd_bands(*powers, FRAME),
        "env_r": _envelope_correlation(*powers),
        "si_sdr": si_sdr(estimate, reference),
        "l1": l1(estimate, reference),
    }


def band_energies(power: Tensor) -> Tensor:
    """The mean of power [..., 1025, frames] over each band of env-r: [..., bands, frames].

    Linear: it may be taken of cross terms, before they are added up.
    """
    return band_means(FRAME, ENVELOPE_START_HZ, ENVELOPE_BANDS, power) @ power


def band_means(n_fft: int, start_hz: int, bands: int, like: Tensor) -> Tensor:
    """[bands, n_fft // 2 + 1]: a spectrum's mean over each equal band from `start_hz` to the top.

    One over the band's number of bins where the bin is in it; of `like`'s type and device.
    """
    band = _equal_band(torch.arange(n_fft // 2 + 1) * TARGET_RATE / n_fft, start_hz, bands)
    member = (band == torch.arange(bands)[:, None]).to(like)
    return member / member.sum(dim=1, keepdim=True)


def envelope_band(hertz: Tensor) -> Tensor:
    """The number of the band of env-r that each frequency is in, -1 below the first; int64."""
    return _equal_band(hertz, ENVELOPE_START_HZ, ENVELOPE_BANDS)


def _equal_band(hertz: Tensor, start_hz: int, bands: int) -> Tensor:
    width = (TARGET_RATE / 2 - start_hz) / bands
    return ((hertz.double() - start_hz) / width).floor().clamp(-1, bands - 1).long()


def correlate_envelopes(estimate: Tensor, reference: Tensor) -> Tensor:
    """env-r [...] of band energies [..., bands, frames]; see `envelope_correlation`."""
    ours, truth = (_centred_logs(energies) for energies in (estimate, reference))
    ours_spread, truth_spread = (
        logs.square().mean(dim=-1, keepdim=True).sqrt() for logs in (ours, truth)
    )
    correlation = (ours * truth).mean(dim=-1, keepdim=True) / (ours_spread * truth_spread)
    follows = torch.where(ours_spread < _CONSTANT_DECADES, 0.0, correlation)
    told = truth_spread >= _CONSTANT_DECADES
    return torch.where(told, follows, 0.0).sum(dim=(-2, -1)) / told.sum(dim=(-2, -1))


_CONSTANT_DECADES = 1e-3


def _centred_logs(energies: Tensor) -> Tensor:
    logs = log_power(energies).double()
    return logs - logs.mean(dim=-1, keepdim=True)


def _powers(estimate: Tensor, reference: Tensor, n_fft: int, hop: int) -> tuple[Tensor, Tensor]:
    """Power spectra [B, n_fft // 2 + 1, frames] of both."""
    estimate, reference = _rows(estimate, reference)
    if estimate.shape[1] <= n_fft // 2:
        raise ValueError(
            f"{estimate.shape[1]} samples are too short for frames of {n_fft}; "
            f"give more than {n_fft // 2}"
        )
    first, second = (spectrum(audio, n_fft, hop) for audio in (estimate, reference))
    return first.abs().square(), second.abs().square()


def spectrum(audio: Tensor, n_fft: int = FRAME, hop: int = HOP, *, center: bool = True) -> Tensor:
    """The Hann-window spectrum of [B, T] that the metrics are made from: [B, bins, frames].

    Frame k is centred on sample k * hop, the ends mirrored; with `center=False` it starts there.
    """
    window = torch.hann_window(n_fft, dtype=audio.dtype, device=audio.device)
    return torch.stft(audio, n_fft, hop, window=window, center=center, return_complex=True)


def log_power(power: Tensor) -> Tensor:
    """Base-10 logs, at least -8."""
    return power.clamp(min=FLOOR).log10()


def _lsd_bands(estimate: Tensor, reference: Tensor, n_fft: int) -> dict[str, Tensor]:
    difference = log_power(estimate) - log_power(reference)
    cutoff = CUTOFF_HZ * n_fft // TARGET_RATE
    return {
        "lsd": _root_mean_square(difference),
        "lsd_lf": _root_mean_square(difference[:, :cutoff]),
        "lsd_hf": _root_mean_square(difference[:, cutoff:]),
    }


def _envelope_correlation(estimate: Tensor, reference: Tensor) -> Tensor:
    return correlate_envelopes(band_energies(estimate), band_energies(reference))


def _root_mean_square(difference: Tensor) -> Tensor:
    return difference.square().mean(dim=1).sqrt().mean(dim=1)


def _rows(estimate: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    if estimate.ndim == 3 and estimate.shape[1] == 1:
        estimate = estimate.squeeze(1)
    if reference.ndim == 3 and reference.shape[1] == 1:
        reference = reference.squeeze(1)
    if estimate.shape != reference.shape or estimate.ndim != 2:
        raise ValueError(
            f"estimate {tuple(estimate.shape)} and reference {tuple(reference.shape)} must be "
            "equal, [B, T] or [B, 1, T]"
        )
    dtype = torch.promote_types(estimate.dtype, torch.float32)
    return estimate.to(dtype), reference.to(dtype)
