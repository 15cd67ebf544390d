"""A small random Moshi with everything the large one has: for tests, the demo and benchmarks."""

from __future__ import annotations

from typing import Any

import torch
from moshi.models.lm import LMModel
from torch import nn


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
