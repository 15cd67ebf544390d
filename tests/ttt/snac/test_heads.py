"""The inits against what they mean: each is compared with the layers it was made from."""

import pytest
import torch
import torchaudio.functional
from snac.layers import ResidualUnit, WNConv1d

from ttt.snac.heads import half_band_sinc, write_weight, zero_gain
from ttt.snac.model import Decoder48k, deterministic


def codes_for(model, n_coarse=6):
    size = model.geometry.codebook_size
    return [torch.randint(0, size, (1, n)) for n in model.geometry.lengths(n_coarse)]


def residual_units(block):
    return [layer for layer in block.block if isinstance(layer, ResidualUnit)]


def test_noble_keeps_every_second_sample_and_nears_the_resampled_output(nano_snac):
    model = Decoder48k.from_snac(nano_snac.double(), init="noble")
    with deterministic(model):
        audio, audio_24k = model.decode_both(codes_for(model))
    torch.testing.assert_close(audio[..., ::2], audio_24k, rtol=0, atol=1e-12)
    expected = torchaudio.functional.resample(audio_24k, 24_000, 48_000)
    error = (audio - expected).square().mean()
    assert 10 * torch.log10(expected.square().mean() / error) > 33


def test_half_band_sinc_keeps_samples_and_constants_and_is_centred():
    taps = half_band_sinc()
    centre = len(taps) // 2
    even = taps[centre % 2 :: 2]
    assert even.count_nonzero() == 1
    assert taps[centre] == 1.0
    assert torch.equal(taps, taps.flip(0))
    torch.testing.assert_close(taps.sum(), torch.tensor(2.0, dtype=torch.float64))
    # Gain 2 (for the zeros put in between) below 9 kHz, nothing above 15 kHz.
    gain = torch.fft.rfft(taps, 4800).abs() / 2
    assert (gain[:900] - 1).abs().max() < 0.01
    assert gain[1500:].max() < 0.01


def test_average_writes_the_weights_that_were_meant(nano_snac):
    model = Decoder48k.from_snac(nano_snac, init="average")
    last = nano_snac.decoder.model[5]
    up, new_up = last.block[1], model.head.block.block[1]
    assert up.weight.shape == (8, 4, 4)  # (in, out, kernel): the axis to average is the first
    assert new_up.weight.shape == (4, 4, 4)
    for i in range(4):
        expected = (up.weight[2 * i] + up.weight[2 * i + 1]) / 2
        torch.testing.assert_close(new_up.weight[i], expected)
        alpha = (last.block[0].alpha[0, 2 * i] + last.block[0].alpha[0, 2 * i + 1]) / 2
        assert torch.equal(model.head.block.block[0].alpha[0, i], alpha)
    assert torch.equal(new_up.bias, up.bias)
    tail_snake, tail_conv = nano_snac.decoder.model[6:8]
    torch.testing.assert_close(model.head.output.weight, tail_conv.weight)
    assert torch.equal(model.head.output.bias, tail_conv.bias)
    assert torch.equal(model.head.snake.alpha, tail_snake.alpha)


def test_average_copies_the_residual_units_into_dense_ones(nano_snac):
    with torch.no_grad():  # alphas are all ones in a fresh model; make them tell apart
        for unit in residual_units(nano_snac.decoder.model[5]):
            unit.block[0].alpha.uniform_(0.5, 2)
            unit.block[2].alpha.uniform_(0.5, 2)
    model = Decoder48k.from_snac(nano_snac, init="average")
    x = torch.randn(2, 4, 200)
    sources = residual_units(nano_snac.decoder.model[5])
    copies = residual_units(model.head.block)
    assert len(copies) == 3
    for source, copied in zip(sources, copies, strict=True):
        assert source.block[1].groups == 4
        assert copied.block[1].groups == 1
        torch.testing.assert_close(copied(x), source(x), rtol=1e-5, atol=1e-6)


def test_random_is_the_same_architecture_with_none_of_the_weights(nano_snac):
    average = Decoder48k.from_snac(nano_snac, init="average").head.state_dict()
    fresh = Decoder48k.from_snac(nano_snac, init="random").head.state_dict()
    assert {k: v.shape for k, v in average.items()} == {k: v.shape for k, v in fresh.items()}
    for name in ("block.block.1.parametrizations.weight.original1", "output.bias"):
        assert not torch.equal(average[name], fresh[name])


def test_write_weight_is_seen_where_a_copy_is_lost():
    conv = WNConv1d(4, 3, kernel_size=5)
    wanted = torch.randn(3, 4, 5)
    with torch.no_grad():
        conv.weight.copy_(wanted)  # what the original project did
    assert not torch.allclose(conv.weight, wanted)
    write_weight(conv, wanted)
    torch.testing.assert_close(conv.weight, wanted)


def test_zero_gain_puts_out_zeros_and_still_learns():
    conv = WNConv1d(4, 1, kernel_size=5)
    direction = conv.parametrizations.weight.original1.clone()
    zero_gain(conv)
    out = conv(torch.randn(2, 4, 50))
    assert torch.equal(out, torch.zeros_like(out))
    assert torch.equal(conv.parametrizations.weight.original1, direction)
    out.sum().backward()
    gain = conv.parametrizations.weight.original0.grad
    assert gain.isfinite().all()
    assert gain.abs().min() > 0
    # The tempting way instead, assigning zeros, is lost at once.
    conv.weight = torch.zeros(1, 4, 5)
    assert conv.weight.isnan().all()


def test_average_needs_a_last_block_like_the_new_one(nano_snac):
    other = type(nano_snac)(
        sampling_rate=24000,
        encoder_dim=4,
        encoder_rates=[4, 2, 8, 8],
        decoder_dim=64,
        decoder_rates=[8, 8, 2, 4],
        attn_window_size=None,
        codebook_size=16,
        vq_strides=[4, 2, 1],
    )
    with pytest.raises(ValueError, match=r"halves its channels at stride 2.*stride 4; use interp"):
        Decoder48k.from_snac(other, init="average")
    for init in ("interp", "noble", "random"):
        assert Decoder48k.from_snac(other, init=init).reach_samples_48k > 9000
