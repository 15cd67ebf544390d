"""Quantizing with losses equals snac's own; codebooks fill and revive; layers start scaled."""

import copy

import torch
from snac import SNAC
from torch import nn

from ttt.synthetic.codebook_training import fill_codebooks, quantize, revive_codes, scale_layers


def test_quantize_equals_snacs_own_quantizer(nano_snac: SNAC) -> None:
    latents = nano_snac.encoder(torch.randn(2, 1, 8_192) * 0.1)
    theirs, their_codes = nano_snac.quantizer(latents)
    ours, our_codes, seen, _ = quantize(nano_snac, latents)
    torch.testing.assert_close(ours, theirs)
    assert all(torch.equal(a, b) for a, b in zip(our_codes, their_codes, strict=True))
    assert [len(vectors) for vectors in seen] == [2 * 4, 2 * 8, 2 * 16]


def test_the_loss_moves_codes_and_vectors_towards_each_other(nano_snac: SNAC) -> None:
    latents = nano_snac.encoder(torch.randn(2, 1, 8_192) * 0.1).detach().requires_grad_()
    before = quantize(nano_snac, latents)[3]
    before.backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0
    books = [quantizer.codebook.weight for quantizer in nano_snac.quantizer.quantizers]
    with torch.no_grad():
        for book in books:
            book -= 0.5 * book.grad
    assert quantize(nano_snac, latents)[3] < before


def test_unrounded_vectors_pass_the_gradient_and_cost_nothing(nano_snac: SNAC) -> None:
    latents = torch.randn(1, nano_snac.latent_dim, 16)
    whole, _, _, loss = quantize(nano_snac, latents, rounded=False)
    assert float(loss) == 0.0
    assert not torch.allclose(whole, quantize(nano_snac, latents)[0])


def test_filled_codebooks_hold_vectors_the_encoder_makes(nano_snac: SNAC) -> None:
    audio = torch.randn(8, 1, 32_768) * 0.1
    twin = copy.deepcopy(nano_snac)
    fill_codebooks(nano_snac, [twin], audio)
    _, codes, seen, _ = quantize(nano_snac, nano_snac.encoder(audio))
    coarsest = nano_snac.quantizer.quantizers[0].codebook.weight
    assert all((seen[0] == row).all(1).any() for row in coarsest[:8])
    assert all(len(scale.unique()) > 32 for scale in codes)
    for ours, theirs in zip(nano_snac.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_only_unused_codes_are_revived_and_the_count_restarts(nano_snac: SNAC) -> None:
    latents = nano_snac.encoder(torch.randn(2, 1, 8_192) * 0.1)
    _, codes, seen, _ = quantize(nano_snac, latents)
    used = [torch.bincount(scale.flatten(), minlength=64) for scale in codes]
    alive = [count > 0 for count in used]
    books = [q.codebook.weight for q in nano_snac.quantizer.quantizers]
    before = [book.detach().clone() for book in books]
    revive_codes(nano_snac, [], used, seen)
    for book, old, keep, count in zip(books, before, alive, used, strict=True):
        assert torch.equal(book[keep], old[keep])
        assert (book[~keep] != old[~keep]).any(dim=1).all()
        assert count.sum() == 0


def test_scaled_layers_carry_the_signal_to_the_end(nano_snac: SNAC) -> None:
    """Every convolution's output has deviation 1 on the audio; the last one the audio's own."""
    audio = torch.randn(4, 1, 8_192) * 0.1
    scale_layers(nano_snac, audio)
    deviations = []
    hooks = [
        layer.register_forward_hook(lambda _layer, _input, out: deviations.append(_spread(out)))
        for layer in nano_snac.modules()
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d) and layer.bias is not None
    ]
    with torch.no_grad():
        nano_snac.decoder(quantize(nano_snac, nano_snac.encoder(audio), rounded=False)[0])
    for hook in hooks:
        hook.remove()
    # NoiseBlocks draw new noise in the second pass.
    assert all(0.8 < deviation < 1.25 for deviation in deviations[:-1])
    assert 0.08 < deviations[-1] < 0.125


def _spread(output: torch.Tensor) -> float:
    return float((output - output.mean((0, 2), keepdim=True)).std())
