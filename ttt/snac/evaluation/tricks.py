"""What costs nothing and needs no training: hiss, and folding + hiss, measured at every level.

Both are added to the untouched codec's 24 kHz output, resampled:
- folding: the mirrored band that stuffing the 24 kHz output with zeros leaves above 12 kHz,
  high-passed at 12.3 kHz; at 0 dB it is as strong as the band it mirrors. Or, falling towards
  24 kHz, what linear interpolation leaves of it (at 0 dB exactly that), high-passed there;
- hiss: white noise of a level in dB re full scale (its RMS before the filter), high-passed there.

A decoder that does not beat them has learnt nothing about the octave it adds. Which level is
strongest depends on the clips, so every pair of levels is measured;
`ttt.snac.evaluation.trick_levels` chooses. The short-time Fourier transform is linear, so the
spectra of the parts give the power of all pairs.

Hiss at -115 dB lies below the floor of LSD and env-r and adds nothing to them; at -10 dB it is
louder than the top octave of any speech or music. Folding goes from -60 dB to as strong as the
band it mirrors, or from -30 dB to three times what linear interpolation leaves.
"""

from __future__ import annotations

import hashlib
import itertools
import math

import torch
from torch import Tensor

from ttt.snac.evaluation.trick_levels import NO_FOLDING, Folding, TrickGrid
from ttt.snac.geometry import TARGET_RATE
from ttt.snac.metrics import (
    CUTOFF_HZ,
    FLOOR,
    FRAME,
    HOP,
    METRICS,
    band_energies,
    correlate_envelopes,
    log_power,
    spectrum,
)

HISS_DB = tuple(range(-115, -5, 5))
FOLDINGS = (
    NO_FOLDING,
    *(Folding(decibels, falls=False) for decibels in range(-60, 5, 5)),
    *(Folding(decibels, falls=True) for decibels in range(-30, 15, 5)),
)
"""With NO_FOLDING, hiss alone."""
HIGH_PASS_HZ = 12_300


def zero_stuffed(audio_24k: Tensor) -> Tensor:
    """Audio [..., T] at 48 kHz [..., 2 T] with a zero after each sample, twice as loud.

    Its spectrum is the 24 kHz signal's and, above 12 kHz, its mirror image.
    """
    return torch.stack([2 * audio_24k, torch.zeros_like(audio_24k)], dim=-1).flatten(-2)


def high_passed(audio: Tensor) -> Tensor:
    """48 kHz audio [..., T] without anything below 12.3 kHz."""
    samples = audio.shape[-1]
    bands = torch.fft.rfft(audio)
    bands[..., : math.ceil(HIGH_PASS_HZ * samples / TARGET_RATE)] = 0
    return torch.fft.irfft(bands, samples)


def white_noise(name: str, samples: int) -> Tensor:
    """Noise [samples] of RMS 1 on the CPU that follows from `name`, a clip's id, alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def folding_of(image: Tensor) -> tuple[Tensor, Tensor]:
    """Flat and falling folding [..., T] at 0 dB of a 24 kHz output that was `zero_stuffed`."""
    padded = torch.nn.functional.pad(image, (1, 1))
    interpolated = padded[..., 1:-1] / 2 + (padded[..., :-2] + padded[..., 2:]) / 4
    return high_passed(image), high_passed(interpolated)


def add_trick(
    baseline: Tensor, image: Tensor, noise: Tensor, folding: Folding, hiss_db: float
) -> Tensor:
    """The audio of one pair of levels; arguments as those of `measure_grid`."""
    folded = _gain(folding.decibels) * folding_of(image)[folding.falls]
    return baseline + folded + _gain(hiss_db) * high_passed(noise)


def measure_grid(baseline: Tensor, image: Tensor, noise: Tensor, truth: Tensor) -> TrickGrid:
    """The metrics of every pair of levels.

    Args:
        baseline: the 24 kHz output, resampled; [T] as all others, on one device.
        image: the 24 kHz output, `zero_stuffed`.
        noise: of RMS 1, with seeds of its own for each clip.
        truth: the true audio.
    """
    parts = torch.stack([baseline, *folding_of(image), high_passed(noise), truth])
    tables = {**_spectral(parts), "si_sdr": _si_sdr(parts.double()), "l1": _l1(parts)}
    numbers = {metric: tables[metric].cpu().double().numpy() for metric in METRICS}
    return TrickGrid(HISS_DB, FOLDINGS, numbers)


_BLOCK_FRAMES = 256
"""Frames whose spectra are held at once: what is in use stays in a core's cache."""
_L1_SAMPLES = 32_768
_CUTOFF_BIN = CUTOFF_HZ * FRAME // TARGET_RATE
_LEAK_BINS = 32
"""Bins below 12 kHz that a Hann window lets what lies above 12.3 kHz into."""
_EDGE_FRAMES = 3
"""Frames at each end where the mirrored signal has a kink, which reaches all bins."""


def _spectral(parts: Tensor) -> dict[str, Tensor]:
    """LSD, its two bands and env-r [F, H]."""
    sums = torch.zeros(3, len(FOLDINGS), len(HISS_DB), dtype=torch.float64)
    padded = torch.nn.functional.pad(parts[:, None], (FRAME // 2, FRAME // 2), "reflect")[:, 0]
    frames = parts.shape[1] // HOP + 1
    energies = []
    edge = min(_EDGE_FRAMES, frames // 2)
    starts = [0, *range(edge, frames - edge, _BLOCK_FRAMES), frames - edge, frames]
    for first, last in itertools.pairwise(starts):
        block = padded[:, first * HOP : (last - 1) * HOP + FRAME]
        spectra = spectrum(block, FRAME, HOP, center=False)
        at_edge = first == 0 or last == frames
        _add_distances(spectra, sums, _CUTOFF_BIN if at_edge else _LEAK_BINS)
        energies.append(_energies(spectra))
    lsd, lsd_lf, lsd_hf = sums / frames
    env_r = _env_r(torch.cat(energies, dim=-1))
    return {"lsd": lsd, "lsd_lf": lsd_lf, "lsd_hf": lsd_hf, "env_r": env_r}


def _add_distances(spectra: Tensor, sums: Tensor, leak_bins: int) -> None:
    """Add the frames' LSD, LSD-LF and LSD-HF to `sums` [3, F, H]; spectra [5, bins, frames].

    Lower than `leak_bins` below 12 kHz everything is as in resampling.
    """
    bins = spectra.shape[1]
    untouched = _CUTOFF_BIN - leak_bins
    ours, true = (log_power(spectra[k, :untouched].abs().square()) for k in (0, 4))
    below = (ours - true).square().sum(dim=0)
    baseline, flat, falling, noise, truth = spectra[:, untouched:].contiguous()
    true_logs, noise_power = log_power(truth.abs().square()), noise.abs().square()
    scratch = torch.empty_like(true_logs)
    for f, folding in enumerate(FOLDINGS):
        folded = baseline + _gain(folding.decibels) * (falling if folding.falls else flat)
        power, cross = folded.abs().square(), 2 * (folded * noise.conj()).real
        for h, hiss_db in enumerate(HISS_DB):
            gain = _gain(hiss_db)
            torch.add(power, cross, alpha=gain, out=scratch)
            scratch.add_(noise_power, alpha=gain**2).clamp_(min=FLOOR).log10_()
            scratch.sub_(true_logs).square_()
            low, high = below + scratch[:leak_bins].sum(dim=0), scratch[leak_bins:].sum(dim=0)
            distances = ((low + high) / bins, low / _CUTOFF_BIN, high / (bins - _CUTOFF_BIN))
            sums[:, f, h] += torch.stack(distances).sqrt().sum(dim=1).cpu()


def _energies(spectra: Tensor) -> Tensor:
    """Band energies [10, bands, frames]: of the truth, and of products of the four others."""
    b, i, j, n, truth = spectra
    pairs = ((truth, truth), (b, b), (i, i), (j, j), (n, n), (b, i), (b, j), (b, n), (i, n), (j, n))
    return torch.stack([band_energies((x * y.conj()).real) for x, y in pairs])


def _env_r(energies: Tensor) -> Tensor:
    """[F, H]"""
    truth, bb, ii, jj, nn, bi, bj, bn, i_n, j_n = energies
    h = torch.tensor([_gain(level) for level in HISS_DB]).to(energies)[:, None, None]
    rows = []
    for folding in FOLDINGS:
        f = _gain(folding.decibels)
        own, with_baseline, with_noise = (jj, bj, j_n) if folding.falls else (ii, bi, i_n)
        quiet = bb + f**2 * own + 2 * f * with_baseline
        pairs = quiet + h**2 * nn + 2 * h * (bn + f * with_noise)
        rows.append(correlate_envelopes(pairs, truth))
    return torch.stack(rows)


def _si_sdr(parts: Tensor) -> Tensor:
    """[F, H], from the inner products of the centred parts (float64)."""
    centred = parts - parts.mean(dim=1, keepdim=True)
    products = (centred @ centred.T).cpu()
    weights = torch.zeros(len(FOLDINGS), len(HISS_DB), 4, dtype=torch.float64)
    weights[:, :, 0] = 1
    for f, folding in enumerate(FOLDINGS):
        weights[f, :, 1 + folding.falls] = _gain(folding.decibels)
    weights[:, :, 3] = torch.tensor([_gain(level) for level in HISS_DB])
    energy = torch.einsum("fhi,ij,fhj->fh", weights, products[:4, :4], weights)
    signal = (weights @ products[:4, 4]).square() / products[4, 4]
    ratio = torch.where(signal > 0, signal / (energy - signal).clamp(min=0), signal)
    return 10 * ratio.clamp(1e-10, 1e10).log10()


def _l1(parts: Tensor) -> Tensor:
    """[F, H]"""
    sums = torch.zeros(len(FOLDINGS), len(HISS_DB), dtype=torch.float64)
    for baseline, flat, falling, noise, truth in (
        block.unbind() for block in parts.split(_L1_SAMPLES, dim=1)
    ):
        error, scratch = baseline - truth, torch.empty_like(truth)
        for f, folding in enumerate(FOLDINGS):
            folded = error + _gain(folding.decibels) * (falling if folding.falls else flat)
            for h, hiss_db in enumerate(HISS_DB):
                torch.add(folded, noise, alpha=_gain(hiss_db), out=scratch)
                sums[f, h] += float(scratch.abs_().sum())
    return sums / parts.shape[1]


def _gain(decibels: float | None) -> float:
    return 0.0 if decibels is None else 10 ** (decibels / 20)
