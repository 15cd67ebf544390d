"""Small random Moshis, with and without TTT layers, and codes for them to hear."""

import pytest
import torch

from ttt.layers import TTTConfig
from ttt.moshi import insert_ttt, tiny_lm

CONTEXT = 12
KINDS = {
    "linear": {"kind": "linear"},
    "mlp": {"kind": "mlp"},
    "lact": {"flavour": "lact", "rope_theta": None, "base_lr": 0.1, "momentum": True},
}
"""What makes TTT layers of these names."""


def _small_lm(ttt="mlp", exact=False, gate=0.8, **overrides):
    """A model whose window is 12 frames and whose mini-batches are 8; ttt: None, or of `KINDS`."""
    fields = {"context": CONTEXT, "dim": 64, "num_layers": 4, "depformer_dim": 32, "seed": 3}
    if exact:
        fields |= {"norm": "layer_norm", "dtype": torch.float64}
    lm = tiny_lm(**{**fields, **overrides})
    if ttt:
        config = TTTConfig(dim=lm.dim, num_heads=4, mini_batch_size=8, **KINDS[ttt])
        insert_ttt(lm, (1, 2), config, gate=gate, generator=torch.Generator().manual_seed(4))
    return lm


@pytest.fixture(scope="session")
def small_lm():
    return _small_lm


@pytest.fixture(scope="session")
def speech():
    """Codes [batch, codebooks, frames] of no voice in particular."""

    def draw(batch=2, frames=3 * CONTEXT + 5, codebooks=8, seed=6, card=64):
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(card, (batch, codebooks, frames), generator=generator)

    return draw
