"""What snac leaves out for training a codec from nothing: its quantizer and its first weights.

`quantize` adds the losses that train codebooks, `fill_codebooks` and `revive_codes` keep codes
in use, `scale_layers` starts a network whose signal does not die on its way.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from snac import SNAC
from snac.vq import VectorQuantize
from torch import Tensor, nn
from torch.nn import functional as F


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
