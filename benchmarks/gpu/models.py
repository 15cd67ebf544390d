"""Random models of any size on a device, and what is put aside while they are measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from moshi.models.lm import LMModel

from benchmarks.sizes import Size
from ttt.layers import TTTConfig
from ttt.moshi import insert_ttt, tiny_lm
from ttt.snac.layers import snake


def random_moshi(device: str, size: Size, ttt: bool) -> LMModel:
    """Moshi in bfloat16, with TTT-MLP in the size's layers; random weights, or none on "meta"."""
    with torch.device("meta"):
        lm = tiny_lm(**size.moshi, device="meta", dtype=torch.bfloat16)
        if ttt:
            insert_ttt(
                lm, size.ttt_layers, TTTConfig(dim=lm.dim, num_heads=size.moshi["num_heads"])
            )
    return lm if device == "meta" else drawn(lm, device)


def drawn(model: LMModel, device: str) -> LMModel:
    """The model, whose tensors are on "meta", on the device with random weights."""
    model = model.to_empty(device=device)
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(0, 0.02)
            else:
                tensor.zero_()
    return model


@contextmanager
def plain_activation() -> Iterator[None]:
    """Inside, the decoder's activation is torch's operations, as where its kernel does not work."""
    with mock.patch.object(snake, "_has_kernel", return_value=False):
        yield
