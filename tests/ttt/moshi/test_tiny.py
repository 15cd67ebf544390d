"""The tiny Moshi: the large one's streams and tokens, the same bytes for the same seed."""

import torch

from ttt.moshi import tiny_lm


def test_the_seed_alone_decides_the_weights():
    torch.manual_seed(1)
    first = tiny_lm(seed=7).state_dict()
    before = torch.get_rng_state()
    second = tiny_lm(seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["text_linear.weight"], tiny_lm(seed=8).text_linear.weight)


def test_it_has_moshis_streams():
    lm = tiny_lm(context=40)
    assert lm.delays == [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1]
    assert (lm.n_q, lm.dep_q, lm.num_codebooks) == (16, 8, 17)
    assert {layer.self_attn.context for layer in lm.transformer.layers} == {40}
    assert not lm.training


@torch.no_grad()
def test_the_padding_bias_makes_padding_likely():
    codes = torch.zeros(1, 17, 50, dtype=torch.long)

    def padding_rate(bias):
        lm = tiny_lm(padding_bias=bias)
        return (lm(codes).text_logits.argmax(-1) == lm.text_padding_token_id).float().mean()

    assert padding_rate(0.0) < 0.5
    assert padding_rate(50.0) == 1.0


def test_layer_norm_makes_a_float64_model():
    lm = tiny_lm(norm="layer_norm", dtype=torch.float64)
    assert {parameter.dtype for parameter in lm.parameters()} == {torch.float64}
