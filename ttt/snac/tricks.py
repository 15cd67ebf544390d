"""What costs nothing and needs no training: hiss, and folding + hiss, measured at every level.

Both are added to the untouched codec's 24 kHz output, resampled:
- folding: the mirrored band that stuffing the 24 kHz output with zeros leaves above 12 kHz,
  high-passed at 12.3 kHz; at 0 dB it is as strong as the band it mirrors;
- hiss: white noise of a level in dB re full scale (its RMS before the filter), high-passed there.

A decoder that does not beat them has learnt nothing about the octave it adds. Which level is
strongest depends on the clips, so every pair of levels is measured; `ttt.snac.trick_levels`
chooses. The short-time Fourier transform is linear, so three spectra give the power of all pairs.

Hiss at -115 dB lies below the floor of LSD and env-r and adds nothing to them; at -10 dB it is
louder than the top octave of any speech or music. The same holds of folding from -60 to 0 dB.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from typing import Any

import torch
from torch import Tensor

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
FOLDING_DB = (None, *range(-60, 5, 5))
"""None: no folding, so that these pairs are hiss alone."""
HIGH_PASS_HZ = 12_300
Grid = dict[str, list[Any]]
"""Of one clip: "hiss_db" [H], "folding_db" [F] and metric -> [F][H], None where undefined."""


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


def add_trick(
    baseline: Tensor, image: Tensor, noise: Tensor, folding_db: float | None, hiss_db: float
) -> Tensor:
    """The audio of one pair of levels; arguments as those of `measure_grid`."""
    folding = _gain(folding_db) * high_passed(image)
    return baseline + folding + _gain(hiss_db) * high_passed(noise)


def measure_grid(baseline: Tensor, image: Tensor, noise: Tensor, truth: Tensor) -> Grid:
    """The metrics of every pair of levels.

    Args:
        baseline: the 24 kHz output, resampled; [T] as all others, on one device.
        image: the 24 kHz output, `zero_stuffed`.
        noise: of RMS 1, with seeds of its own for each clip.
        truth: the true audio.
    """
    parts = torch.stack([baseline, high_passed(image), high_passed(noise), truth])
    measured = {
        **_spectral(parts),
        "si_sdr": _si_sdr(parts.double()),
        "l1": _l1(parts),
    }
    grid: Grid = {"hiss_db": list(HISS_DB), "folding_db": list(FOLDING_DB)}
    for metric in METRICS:
        grid[metric] = [[_number(value) for value in row] for row in measured[metric].tolist()]
    return grid


_BLOCK_FRAMES = 256
"""Frames whose spectra are held at once: what is in use stays in a core's cache."""
_CUTOFF_BIN = CUTOFF_HZ * FRAME // TARGET_RATE
_LEAK_BINS = 32
"""Bins below 12 kHz that a Hann window lets what lies above 12.3 kHz into."""
_EDGE_FRAMES = 3
"""Frames at each end where the mirrored signal has a kink, which reaches all bins."""


def _spectral(parts: Tensor) -> dict[str, Tensor]:
    """LSD, its two bands and env-r [F, H]."""
    sums = torch.zeros(3, len(FOLDING_DB), len(HISS_DB), dtype=torch.float64)
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
    """Add the frames' LSD, LSD-LF and LSD-HF to `sums` [3, F, H]; spectra [4, bins, frames].

    Lower than `leak_bins` below 12 kHz everything is as in resampling.
    """
    bins = spectra.shape[1]
    untouched = _CUTOFF_BIN - leak_bins
    ours, true = (log_power(spectra[k, :untouched].abs().square()) for k in (0, 3))
    below = (ours - true).square().sum(dim=0)
    baseline, image, noise, truth = spectra[:, untouched:].contiguous()
    true_logs, noise_power = log_power(truth.abs().square()), noise.abs().square()
    scratch = torch.empty_like(true_logs)
    for f, folding_db in enumerate(FOLDING_DB):
        folded = baseline + _gain(folding_db) * image
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
    """Band energies [7, bands, frames]: of the truth, and of the products of the three others."""
    b, i, n, truth = spectra
    products = [b * b.conj(), i * i.conj(), n * n.conj(), b * i.conj(), b * n.conj(), i * n.conj()]
    return torch.stack([band_energies(x.real) for x in (truth * truth.conj(), *products)])


def _env_r(energies: Tensor) -> Tensor:
    """[F, H]"""
    truth, bb, ii, nn, bi, bn, ni = energies
    h = torch.tensor([_gain(level) for level in HISS_DB]).to(energies)[:, None, None]
    rows = []
    for folding_db in FOLDING_DB:
        f = _gain(folding_db)
        pairs = bb + f**2 * ii + 2 * f * bi + h**2 * nn + 2 * h * (bn + f * ni)
        rows.append(correlate_envelopes(pairs, truth))
    return torch.stack(rows)


def _si_sdr(parts: Tensor) -> Tensor:
    """[F, H], from the inner products of the centred parts (float64)."""
    centred = parts - parts.mean(dim=1, keepdim=True)
    products = (centred @ centred.T).cpu()
    f, h = (
        torch.tensor([_gain(level) for level in levels], dtype=torch.float64)
        for levels in (FOLDING_DB, HISS_DB)
    )
    weights = torch.stack(
        [torch.ones(len(f), len(h)), f[:, None].expand(-1, len(h)), h.expand(len(f), -1)], dim=-1
    ).double()
    energy = torch.einsum("fhi,ij,fhj->fh", weights, products[:3, :3], weights)
    signal = (weights @ products[:3, 3]).square() / products[3, 3]
    ratio = torch.where(signal > 0, signal / (energy - signal).clamp(min=0), signal)
    return 10 * ratio.clamp(1e-10, 1e10).log10()


def _l1(parts: Tensor) -> Tensor:
    """[F, H]"""
    sums = torch.zeros(len(FOLDING_DB), len(HISS_DB), dtype=torch.float64)
    for baseline, image, noise, truth in (
        block.unbind() for block in parts.split(_BLOCK_FRAMES * HOP, dim=1)
    ):
        error, scratch = baseline - truth, torch.empty_like(truth)
        for f, folding_db in enumerate(FOLDING_DB):
            folded = error + _gain(folding_db) * image
            for h, hiss_db in enumerate(HISS_DB):
                torch.add(folded, noise, alpha=_gain(hiss_db), out=scratch)
                sums[f, h] += float(scratch.abs_().sum())
    return sums / parts.shape[1]


def _gain(decibels: float | None) -> float:
    return 0.0 if decibels is None else 10 ** (decibels / 20)


def _number(value: float) -> float | None:
    """Six digits: enough for every table, and lines stay short."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
