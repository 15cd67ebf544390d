"""How much memory a training step's activations take, counted rather than guessed."""

from __future__ import annotations

import torch
from torch import Tensor

from ttt.snac.model import Decoder48k

_PROBE_COARSE = 2


def activation_bytes_per_coarse(model: Decoder48k, phase: int) -> int:
    """Bytes that autograd keeps of one forward pass, per coarsest token of one clip, in float32.

    Counted on a short forward pass of `model`: every stored tensor that is not a parameter, once.
    The loss and the optimizer come on top. Leaves `model` unfrozen.
    """
    kept: dict[int, int] = {}
    parameters = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    codes = [
        torch.zeros(1, count, dtype=torch.int64, device=next(model.parameters()).device)
        for count in model.geometry.lengths(_PROBE_COARSE)
    ]
    model.freeze_body(phase == 1)
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = model(codes)  # the graph lives until the count is done
    finally:
        model.freeze_body(False)
    del outputs
    return sum(kept.values()) // _PROBE_COARSE
