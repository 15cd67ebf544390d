"""A small random Moshi with everything the large one has, and a small Mimi whose codes vary.

For tests, the demo and benchmarks. A random Mimi says nothing: its codebooks are zero, and even
with random ones nearly every frame gets the same codes, because the encoder's output hardly moves
around its mean. Here the projection in front of each quantizer takes the directions in which the
output does move, enlarged, and every codebook is fitted to what arrives at it (a few rounds of
k-means on made speech).
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from moshi.models import loaders
from moshi.models.compression import MimiModel
from moshi.models.lm import LMModel
from moshi.quantization.vq import ResidualVectorQuantizer, SplitResidualVectorQuantizer
from torch import Tensor, nn

from ttt.synthetic.voice import utterance


def tiny_lm(
    seed: int = 0,
    context: int = 32,
    *,
    dim: int = 128,
    num_layers: int = 4,
    num_heads: int = 4,
    card: int = 64,
    text_card: int = 48,
    depformer_dim: int = 64,
    depformer_layers: int = 2,
    depformer_heads: int = 4,
    dep_q: int = 8,
    norm: str = "rms_norm_f32",
    padding_bias: float = 0.0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LMModel:
    """A random `LMModel` with Moshi's 17 streams and delays, 1.9 million parameters as it stands.

    The same seed gives the same weights, and leaves torch's own generator as it was.

    Args:
        context: frames that attention reaches back (3,000 in Moshi).
        card, text_card: sizes of the audio codebooks and of the text vocabulary.
        dep_q: codebooks predicted: 8 as in Moshi, or 16, the user's too.
        norm: "layer_norm" makes a float64 model exact; the others compute in float32 inside.
        padding_bias: added to the text logit of the padding token; the higher, the more often the
            model's own text is padding, as it is most of the time in the trained model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        arguments = tiny_arguments(
            context,
            dim=dim,
            num_layers=num_layers,
            num_heads=num_heads,
            card=card,
            text_card=text_card,
            depformer_dim=depformer_dim,
            depformer_layers=depformer_layers,
            depformer_heads=depformer_heads,
            dep_q=dep_q,
            norm=norm,
        )
        lm = LMModel(**arguments, dtype=torch.float32)
    if padding_bias:
        bias = torch.zeros(text_card)
        bias[lm.text_padding_token_id] = padding_bias
        lm.text_linear.bias = nn.Parameter(bias)
    return lm.to(device=device, dtype=dtype).eval()


def tiny_arguments(
    context: int,
    *,
    dim: int,
    num_layers: int,
    num_heads: int,
    card: int,
    text_card: int,
    depformer_dim: int,
    depformer_layers: int,
    depformer_heads: int,
    dep_q: int = 8,
    norm: str = "rms_norm_f32",
) -> dict[str, Any]:
    """Arguments of `LMModel`, as in a config.json, for Moshi's streams and delays in small."""
    return {
        "delays": [0] + 2 * [0, 1, 1, 1, 1, 1, 1, 1],
        "n_q": 16,
        "dep_q": dep_q,
        "card": card,
        "text_card": text_card,
        "dim": dim,
        "num_heads": num_heads,
        "num_layers": num_layers,
        "hidden_scale": 4.125,
        "causal": True,
        "layer_scale": None,
        "context": context,
        "max_period": 10000,
        "gating": "silu",
        "norm": norm,
        "positional_embedding": "rope",
        "depformer_dim": depformer_dim,
        "depformer_dim_feedforward": int(4.125 * depformer_dim),
        "depformer_num_heads": depformer_heads,
        "depformer_num_layers": depformer_layers,
        "depformer_layer_scale": None,
        "depformer_multi_linear": True,
        "depformer_context": dep_q,
        "depformer_max_period": 10000,
        "depformer_gating": "silu",
        "depformer_pos_emb": "none",
        "depformer_weights_per_step": True,
    }


_FIT_CLIPS, _FIT_SECONDS = 8, 8.0
_KMEANS_ROUNDS = 4


def tiny_mimi(seed: int = 0, bins: int = 64, context: int = 50) -> MimiModel:
    """A random `MimiModel` with Mimi's rates (24 kHz, frames of 1,920 samples) and 8 codebooks.

    The same arguments give the same weights, whatever the number of threads, and torch's own
    generator is left as it was.

    Args:
        bins: size of each codebook (2,048 in Mimi).
        context: steps of 1/25 s that its attention reaches back (250 in Mimi).

    Raises:
        ValueError: more bins than the made speech has frames to fit them to.
    """
    frames = int(_FIT_CLIPS * _FIT_SECONDS * loaders.FRAME_RATE)
    if not 2 <= bins <= frames:
        raise ValueError(f"bins must lie between 2 and {frames}, not {bins}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Sums in several threads round by how many they are.
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            mimi = loaders.get_mimi(None, _config(bins, context), num_codebooks=8)
            _fit(mimi, seed)
    finally:
        torch.set_num_threads(threads)
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
