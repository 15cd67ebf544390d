"""What the tiny codec hears while it learns: mostly the synthetic voice, and other sounds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ttt.audio import resample
from ttt.synthetic.voice import utterance

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
