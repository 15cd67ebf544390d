"""The peer of the streaming benchmark hears what the product hears."""

import pytest
import torch

from benchmarks import moshi_peer
from ttt.layers import TTTConfig
from ttt.moshi import evaluate_codes, insert_ttt, tiny_lm


@pytest.mark.parametrize("own_text", (True, False))
@pytest.mark.parametrize("ttt", (True, False))
def test_the_peer_has_the_same_losses(own_text, ttt):
    lm = tiny_lm(context=12, dim=64, num_layers=3, depformer_dim=32)
    if ttt:
        generator = torch.Generator().manual_seed(4)
        config = TTTConfig(dim=64, num_heads=4, mini_batch_size=8)
        insert_ttt(lm, [1], config, gate=0.8, generator=generator)
    codes = torch.randint(64, (1, 8, 50), generator=torch.Generator().manual_seed(1))
    text, nll = moshi_peer.listen(lm, codes, own_text=own_text, chunk=8)
    expected = evaluate_codes(lm, codes, text_stream="own" if own_text else "pad", chunk=8)
    assert (nll - expected.nll).abs().max() < 1e-5
    if own_text:
        assert torch.equal(text, expected.text)
    assert not lm.is_streaming
