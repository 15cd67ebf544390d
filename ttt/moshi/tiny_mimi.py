"""A small Mimi whose codes vary with the speech: for tests, the demo and benchmarks.

A random Mimi says nothing: its codebooks are zero, and even with random ones nearly every frame
gets the same codes, because the encoder's output hardly moves around its mean. Here the projection
in front of each quantizer takes the directions in which the output does move, enlarged, and every
codebook is fitted to what arrives at it (a few rounds of k-means on made speech).
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from moshi.models import loaders
from moshi.models.compression import MimiModel
from moshi.quantization.vq import ResidualVectorQuantizer, SplitResidualVectorQuantizer
from torch import Tensor

from ttt.synthetic.voice import utterance

_FIT_CLIPS, _FIT_SECONDS = 8, 8.0
_KMEANS_ROUNDS = 4


def tiny_mimi(seed: int = 0, bins: int = 64, context: int = 50) -> MimiModel:
    """A random `MimiModel` with Mimi's rates (24 kHz, frames of 1,920 samples) and 8 codebooks.

    The same arguments give the same weights, and torch's own generator is left as it was.

    Args:
        bins: size of each codebook (2,048 in Mimi).
        context: steps of 1/25 s that its attention reaches back (250 in Mimi).

    Raises:
        ValueError: more bins than the made speech has frames to fit them to.
    """
    frames = int(_FIT_CLIPS * _FIT_SECONDS * loaders.FRAME_RATE)
    if not 2 <= bins <= frames:
        raise ValueError(f"bins must lie between 2 and {frames}, not {bins}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mimi = loaders.get_mimi(None, _config(bins, context), num_codebooks=8)
        _fit(mimi, seed)
    return mimi


def _config(bins: int, context: int) -> dict[str, Any]:
    """The published configuration with fewer channels and layers."""
    dimension = 32
    return {
        "sample_rate": loaders.SAMPLE_RATE,
        "channels": 1,
        "frame_rate": loaders.FRAME_RATE,
        "seanet": {**loaders._seanet_kwargs, "dimension": dimension, "n_filters": 4},
        "quantizer": {
            "dimension": 16,
            "n_q": 8,
            "bins": bins,
            "input_dimension": dimension,
            "output_dimension": dimension,
        },
        "transformer": {
            **loaders._transformer_kwargs,
            "d_model": dimension,
            "num_heads": 4,
            "num_layers": 2,
            "context": context,
            "dim_feedforward": 2 * dimension,
            "input_dimension": dimension,
            "output_dimensions": [dimension],
        },
    }


@torch.no_grad()
def _fit(mimi: MimiModel, seed: int) -> None:
    voices = [
        utterance(seed * _FIT_CLIPS + clip, _FIT_SECONDS, mimi.sample_rate, speaker=clip)
        for clip in range(_FIT_CLIPS)
    ]
    audio = torch.from_numpy(np.stack(voices))[:, None]
    latents = mimi.encode_to_latent(audio, quantize=False)
    quantizer = cast(SplitResidualVectorQuantizer, mimi.quantizer)
    for part in (quantizer.rvq_first, quantizer.rvq_rest):
        _fit_part(part, latents)


def _fit_part(part: ResidualVectorQuantizer, latents: Tensor) -> None:
    """Fit the projection and the codebooks of one quantizer to latents [B, D, T]."""
    vectors = latents.transpose(1, 2).flatten(0, 1)
    _, deviations, directions = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    deviations = deviations[: part.dimension] / len(vectors) ** 0.5
    # Blown up to 1, the smallest directions would be rounding errors.
    deviations = deviations.clamp(min=0.1 * float(deviations[0]))
    projection = cast(torch.nn.Conv1d, part.input_proj).weight
    projection.copy_((directions[: part.dimension] / deviations[:, None])[..., None])
    residual = part.input_proj(latents).transpose(1, 2).flatten(0, 1)
    for layer in part.vq.layers:
        book: Any = layer._codebook
        centres = _kmeans(residual, book.codebook_size)
        book.embedding_sum.copy_(centres)
        book.cluster_usage.fill_(1)
        book._initialized.fill_(1)
        book._embedding = None
        residual = residual - centres[torch.cdist(residual, centres).argmin(1)]


def _kmeans(vectors: Tensor, count: int) -> Tensor:
    """`count` centres of vectors [N, D]; a centre that nothing is near keeps its place."""
    centres = vectors[torch.randperm(len(vectors))[:count]].clone()
    for _ in range(_KMEANS_ROUNDS):
        nearest = torch.nn.functional.one_hot(torch.cdist(vectors, centres).argmin(1), count).T
        members = nearest.sum(1, keepdim=True)
        means = nearest.to(vectors.dtype) @ vectors / members.clamp(min=1)
        centres = torch.where(members > 0, means, centres)
    return centres
