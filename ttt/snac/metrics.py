"""What decoders are compared by: log-spectral distance by band, SI-SDR and L1.

No number here stands alone. Untrained noise beats plain resampling on LSD, because it fills the
empty high band; it loses on LSD below 12 kHz, L1 and SI-SDR. Report them together.

Audio is [B, T] or [B, 1, T] at 48 kHz, two equal shapes; every metric is [B].
"""

from __future__ import annotations

import torch
from torch import Tensor

from ttt.snac.geometry import TARGET_RATE

CUTOFF_HZ = 12_000
"""Where the 24 kHz codec's band ends and the head's own begins."""


def log_spectral_distance(
    estimate: Tensor, reference: Tensor, n_fft: int = 2048, hop: int = 512
) -> Tensor:
    """LSD in the definition of AP-BWE, lower is better.

    Base-10 log of the Hann-window power spectrum clamped at 1e-8, root of the mean square
    difference over frequency, mean over frames. Raises ValueError for unequal shapes.
    """
    return _root_mean_square(_log_difference(estimate, reference, n_fft, hop))


def lsd_bands(
    estimate: Tensor, reference: Tensor, n_fft: int = 2048, hop: int = 512
) -> dict[str, Tensor]:
    """LSD of all bins ("lsd"), of those below 12 kHz ("lsd_lf") and from there up ("lsd_hf")."""
    difference = _log_difference(estimate, reference, n_fft, hop)
    cutoff = CUTOFF_HZ * n_fft // TARGET_RATE
    return {
        "lsd": _root_mean_square(difference),
        "lsd_lf": _root_mean_square(difference[:, :cutoff]),
        "lsd_hf": _root_mean_square(difference[:, cutoff:]),
    }


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
    """Everything a report shows together: "lsd", "lsd_lf", "lsd_hf", "si_sdr", "l1"."""
    return {
        **lsd_bands(estimate, reference),
        "si_sdr": si_sdr(estimate, reference),
        "l1": l1(estimate, reference),
    }


def _log_difference(estimate: Tensor, reference: Tensor, n_fft: int, hop: int) -> Tensor:
    """[B, n_fft // 2 + 1, frames]."""
    estimate, reference = _rows(estimate, reference)
    if estimate.shape[1] <= n_fft // 2:
        raise ValueError(
            f"{estimate.shape[1]} samples are too short for frames of {n_fft}; "
            f"give more than {n_fft // 2}"
        )
    return _log_power(estimate, n_fft, hop) - _log_power(reference, n_fft, hop)


def _log_power(audio: Tensor, n_fft: int, hop: int) -> Tensor:
    window = torch.hann_window(n_fft, dtype=audio.dtype, device=audio.device)
    spectrum = torch.stft(audio, n_fft, hop, window=window, return_complex=True)
    return spectrum.abs().square().clamp(min=1e-8).log10()


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
