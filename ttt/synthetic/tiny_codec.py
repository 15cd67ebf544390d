"""Train a tiny SNAC codec on the synthetic voice: codes with meaning, without a download.

    python -m ttt.synthetic.tiny_codec --minutes 25 --seed 0 --out codec/

writes the hub layout (config.json, model.safetensors) and figures.json. The demo and the tests
use the result, `ttt/assets/tiny_codec`, as the codec named "tiny". Its rates and strides are
those of snac_24khz, so every shape is the real one; it is small and trained for minutes on one
CPU thread, so its sound is rough.

Nothing looks at the clock but the decision to stop: `--steps N` gives the same weights as a run
that `--minutes` stopped after N steps.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from snac import SNAC
from torch import Tensor

from ttt.synthetic.codebook_training import (
    batches,
    fill_codebooks,
    quantize,
    revive_codes,
    scale_layers,
    unheard_voices,
)

CONFIG: dict[str, Any] = {
    "sampling_rate": 24_000,
    "encoder_dim": 16,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 128,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": 256,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}
PLAIN_STEPS = 100
"""Steps before the codebooks come in."""
REVIVE_EVERY = 60
SAVE_EVERY = 200
MEASURED_CLIPS = 12
WARMUP_STEPS = 30
DECAY_STEPS = 600
PEAK_RATE = 0.01
"""Adam's rate relative to the size of each tensor."""
FFT_SIZES = (2048, 512, 128)
QUIET = 5e-4
"""Magnitude below which the logarithmic loss levels off; without it pauses own the gradient."""


def train(
    out: Path, seed: int, *, steps: int | None = None, minutes: float | None = None
) -> dict[str, Any]:
    """Train until `steps` or `minutes` are over, save to `out`, return the figures.

    Deterministic on one CPU thread for a seed and a number of steps. What is saved and measured
    is a running average of the weights.
    """
    torch.manual_seed(seed)
    begin = time.monotonic()
    audio = batches(seed)
    model = SNAC(**CONFIG).train()
    scale_layers(model, next(audio))
    average = copy.deepcopy(model).eval()
    groups = _groups(model)
    optimizer = torch.optim.Adam(groups, betas=(0.8, 0.99))
    used = [torch.zeros(CONFIG["codebook_size"]) for _ in CONFIG["vq_strides"]]

    for step in itertools.count(1):
        target = next(audio)
        if step == PLAIN_STEPS + 1:
            fill_codebooks(model, [average], torch.cat([next(audio) for _ in range(6)]))
        rounded = step > PLAIN_STEPS
        quantized, codes, seen, codebook_loss = quantize(model, model.encoder(target), rounded)
        loss = spectral_loss(model.decoder(quantized), target) + codebook_loss

        for group in optimizer.param_groups:
            group["lr"] = group["size"] * _relative_rate(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        _follow(average, model, decay=min(0.995, step / (9 + step)))

        for count, indices in zip(used, codes, strict=True):
            count += torch.bincount(indices.flatten(), minlength=len(count))
        if rounded and step % REVIVE_EVERY == 0:
            revive_codes(model, [average], used, seen)

        elapsed = (time.monotonic() - begin) / 60
        over = step == steps or (minutes is not None and elapsed > minutes)
        if over or step % SAVE_EVERY == 0:
            figures = {"seed": seed, "steps": step, "minutes": round(elapsed, 1)}
            figures |= measure(average)
            save(average, out, figures)
            print(json.dumps(figures), flush=True)
            if over:
                return figures
    raise AssertionError("itertools.count never ends")


def spectral_loss(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean over FFT sizes of log-magnitude distance plus relative linear distance, plus L1.

    estimate, target [B, 1, T] at the codec's rate. Hann windows, hop of a quarter.
    """
    total = 4 * (estimate - target).abs().mean()
    for size in FFT_SIZES:
        made, real = _magnitude(estimate, size), _magnitude(target, size)
        log_distance = ((made + QUIET).log() - (real + QUIET).log()).abs().mean()
        total = total + (log_distance + (made - real).abs().sum() / real.sum()) / len(FFT_SIZES)
    return total


@torch.no_grad()
def measure(model: SNAC) -> dict[str, Any]:
    """Figures on utterances that were never trained on, rounded for people.

    `loss` is `spectral_loss` with the right codes, with codes rolled by half a clip, with every
    code zero, and of digital silence. `codes_used` counts, by scale, codes that occur.
    `lsd_decibels` is the log-spectral distance to the true 24 kHz audio over all bins and, like
    the mean level error (negative: too quiet), for each 3 kHz of the band.
    """
    audio = unheard_voices(MEASURED_CLIPS, seconds=2.048)
    codes = model.encode(audio)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoded = model.decode(codes)
        rolled = model.decode([scale.roll(scale.shape[1] // 2, dims=1) for scale in codes])
        zeros = model.decode([torch.zeros_like(scale) for scale in codes])
    attempts = {
        "right_codes": decoded,
        "rolled_codes": rolled,
        "zero_codes": zeros,
        "silence": torch.zeros_like(audio),
    }
    made, real = (20 * _magnitude(x, 2048).clamp_min(1e-5).log10() for x in (decoded, audio))
    error = made - real
    bands = error[:, 1:].chunk(4, dim=1)
    return {
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
        "loss": {name: round(float(spectral_loss(x, audio)), 4) for name, x in attempts.items()},
        "codes_used": [len(scale.unique()) for scale in codes],
        "lsd_decibels": _log_spectral_distance(error),
        "lsd_decibels_per_3khz": [_log_spectral_distance(band) for band in bands],
        "level_error_decibels_per_3khz": [round(float(band.mean()), 2) for band in bands],
    }


def save(model: SNAC, out: Path, figures: dict[str, Any]) -> None:
    """Write config.json, model.safetensors and figures.json to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    partial = out / "model.safetensors.partial"
    save_file(weights, partial)
    partial.replace(out / "model.safetensors")
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


def _groups(model: SNAC) -> list[dict[str, Any]]:
    """One optimizer group for each tensor, with its typical size.

    A step moves every tensor by the same share of its size. With one rate for all, either the
    depthwise kernels stand still or the 256-wide matrices, and with them the loss, blow up.
    """
    return [
        {"params": [tensor], "size": max(float(tensor.detach().square().mean().sqrt()), 0.05)}
        for tensor in model.parameters()
    ]


def _relative_rate(step: int) -> float:
    """A short warm-up, then a fall with the root of the step: it needs no end to be known."""
    return PEAK_RATE * min(step / WARMUP_STEPS, (1 + (step - 1) / DECAY_STEPS) ** -0.5)


@torch.no_grad()
def _follow(average: SNAC, model: SNAC, decay: float) -> None:
    """Let `average` drift towards `model`."""
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def _magnitude(audio: Tensor, size: int) -> Tensor:
    """[B, 1, T] -> [B, bins, frames], scaled so that noise of deviation s has magnitude about s."""
    window = torch.hann_window(size)
    window /= window.norm()
    spectrum = torch.stft(audio.squeeze(1), size, size // 4, window=window, return_complex=True)
    # The small number keeps the gradient at zero finite.
    return (spectrum.real.square() + spectrum.imag.square() + 1e-10).sqrt()


def _log_spectral_distance(error: Tensor) -> float:
    """Error in dB [B, bins, frames] -> root mean square over bins, mean over frames."""
    return round(float(error.square().mean(1).sqrt().mean()), 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the tiny SNAC codec.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the codec")
    parser.add_argument("--seed", type=int, required=True)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="stop after this long")
    length.add_argument("--steps", type=int, help="stop after this many steps")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train(arguments.out, arguments.seed, steps=arguments.steps, minutes=arguments.minutes)
