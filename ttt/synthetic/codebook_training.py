"""What snac leaves out for training a codec from nothing: its quantizer, first weights and sounds.

`quantize` adds the losses that train codebooks, `fill_codebooks` and `revive_codes` keep codes
in use, `scale_layers` starts a network whose signal does not die on its way. `batches` gives what
it hears: mostly the synthetic voice, and other sounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from snac import SNAC
from snac.vq import VectorQuantize
from torch import Tensor, nn
from torch.nn import functional as F

from ttt.audio import resample
from ttt.synthetic.voice import utterance


def quantize(
    model: SNAC, latents: Tensor, rounded: bool = True
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """What `model.quantizer(latents)` does, and what training needs besides.

    latents [B, D, frames] -> quantized [B, D, frames], codes per scale [B, frames / stride], the
    vectors each codebook saw [count, codebook_dim], and the loss, relative to the vectors' power:
    codes move to the vectors, and vectors (four times more slowly) to their codes.

    With `rounded=False` the vectors go on as they are and the loss is 0: the first steps train a
    plain autoencoder, because codes of an untrained encoder are all alike and stay so.
    """
    total = torch.zeros_like(latents)
    codes, seen, loss = [], [], latents.new_zeros(())
    for quantizer in _quantizers(model):
        pooled = F.avg_pool1d(latents - total, quantizer.stride, quantizer.stride)
        vectors = quantizer.in_proj(pooled)
        chosen, indices = quantizer.decode_latents(vectors)
        if rounded:
            misses = F.mse_loss(chosen, vectors.detach()) + F.mse_loss(vectors, chosen.detach()) / 4
            loss = loss + misses / vectors.detach().square().mean()
        # The rounded vector goes forward, the gradient passes as if it were the vector itself.
        passed = vectors + (chosen - vectors).detach() if rounded else vectors
        part = quantizer.out_proj(passed)
        total = total + part.repeat_interleave(quantizer.stride, dim=-1)
        codes.append(indices)
        seen.append(vectors.detach().transpose(1, 2).flatten(0, 1))
    return total, codes, seen, loss


@torch.no_grad()
def fill_codebooks(model: SNAC, copies: list[SNAC], audio: Tensor) -> None:
    """Start every codebook, coarsest first, from vectors that the encoder makes of `audio`.

    audio [B, 1, T]. The `copies` of the model get the same codebooks.
    """
    latents = model.encoder(audio)
    for scale in range(len(_quantizers(model))):
        seen = quantize(model, latents)[2][scale]
        for network in (model, *copies):
            book = _quantizers(network)[scale].codebook.weight
            rows = torch.linspace(0, len(seen) - 1, len(book)).long()
            book.copy_(seen[rows])


@torch.no_grad()
def revive_codes(model: SNAC, copies: list[SNAC], used: list[Tensor], seen: list[Tensor]) -> None:
    """Move codes that were not used onto vectors of the last batch, in the model and its copies.

    used: counts [codebook_size] per scale, set to 0 here; seen: as `quantize` returns it.
    """
    for scale, count in enumerate(used):
        dead = (count == 0).nonzero().flatten()
        rows = torch.randint(len(seen[scale]), (len(dead),))
        for network in (model, *copies):
            _quantizers(network)[scale].codebook.weight[dead] = seen[scale][rows]
        count.zero_()


@torch.no_grad()
def scale_layers(model: SNAC, audio: Tensor) -> None:
    """Give every convolution an output of mean 0 and deviation 1 on `audio` [B, 1, T].

    Data-dependent initialisation for weight norm (Salimans and Kingma 2016). Without it the
    signal shrinks from layer to layer until codes say nothing, and training rests there for long.
    The last convolution gets the audio's own deviation.
    """
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d) and layer.bias is not None
    ]

    def rescale(layer: Any, _: object, output: Tensor) -> Tensor:
        deviation = (output - output.mean((0, 2), keepdim=True)).std()
        if layer is layers[-1]:
            deviation /= audio.std()
        mean = output.mean((0, 2))
        layer.parametrizations.weight.original0.div_(deviation)
        layer.bias.copy_((layer.bias - mean) / deviation)
        return (output - mean[:, None]) / deviation

    hooks = [layer.register_forward_hook(rescale) for layer in layers]
    model.decoder(quantize(model, model.encoder(audio), rounded=False)[0])
    for hook in hooks:
        hook.remove()


def _quantizers(model: SNAC) -> list[Any]:
    """snac's VectorQuantize modules, coarsest first; untyped, as snac is."""
    return list(cast("list[VectorQuantize]", model.quantizer.quantizers))


BATCH = 4
CROP_SAMPLES = 8_192
POOL_CLIPS = 300
POOL_SECONDS = 4.0
UNHEARD_SEED = 1_000_000
"""Seeds from here on are never trained on; validation and the tests speak with them."""


def batches(seed: int) -> Iterator[Tensor]:
    """For ever, random crops at 24 kHz [BATCH, 1, CROP_SAMPLES], one clip in eight no voice.

    The pool grows while training runs, a clip every other step, so that the first step comes at
    once.
    """
    rng = np.random.default_rng([seed, 3])
    pool: list[Tensor] = []
    while True:
        while len(pool) < BATCH or (len(pool) < POOL_CLIPS and rng.random() < 0.5):
            if rng.random() < 1 / 8:
                pool.append(_at_24k(_chord_over_noise(rng)))
            else:
                pool.append(_at_24k(utterance(int(rng.integers(UNHEARD_SEED)), POOL_SECONDS)))
        crops = []
        for index in rng.choice(len(pool), BATCH, replace=False):
            clip = pool[index]
            start = rng.integers(len(clip) - CROP_SAMPLES)
            crops.append(clip[start : start + CROP_SAMPLES] * float(rng.uniform(0.3, 1.0)))
        yield torch.stack(crops).unsqueeze(1)


def unheard_voices(clips: int, seconds: float) -> Tensor:
    """Utterances that `batches` never draws, at 24 kHz [clips, 1, T]."""
    voices = [_at_24k(utterance(UNHEARD_SEED + clip, seconds)) for clip in range(clips)]
    return torch.stack(voices).unsqueeze(1)


def _at_24k(audio: np.ndarray) -> Tensor:
    return resample(torch.from_numpy(audio), 48_000, 24_000, sharp=True)


def _chord_over_noise(rng: np.random.Generator) -> np.ndarray:
    """48 kHz audio that is no voice: notes that die away, over coloured noise."""
    samples = int(POOL_SECONDS * 48_000)
    moment = np.arange(samples) / 48_000
    audio = np.zeros(samples)
    root = rng.uniform(80, 500)
    for semitones in rng.choice([0, 3, 4, 7, 10, 12, 16, 19], rng.integers(1, 4), replace=False):
        note = root * 2 ** (semitones / 12)
        start, decay = rng.uniform(0, 2), rng.uniform(0.3, 2)
        ring = np.where(moment >= start, np.exp((start - moment) / decay), 0.0)
        for harmonic in range(1, 1 + min(12, int(11_000 / note))):
            tone = np.sin(2 * np.pi * (note * harmonic * moment + rng.random()))
            audio += ring * tone * harmonic ** -rng.uniform(0.7, 1.5)
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    hertz = np.fft.rfftfreq(samples, 1 / 48_000)
    noise = np.fft.irfft(spectrum * (1 + hertz / 200) ** -rng.uniform(0, 1.5))
    audio = audio / np.abs(audio).max() + noise / np.abs(noise).max() * 10 ** rng.uniform(-3, 0.5)
    return (audio * rng.uniform(0.3, 0.9) / np.abs(audio).max()).astype(np.float32)
