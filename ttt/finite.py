"""Numbers that are none, named before they become silence in a file or a code of zero."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ttt.errors import UserError


def refuse_nonfinite_weights(tensors: nn.Module | Mapping[str, Tensor], place: str | Path) -> None:
    """Raise UserError, naming the tensor, where a weight is NaN or infinite.

    A model with such a weight need not say so: a codebook's nearest entry to NaN is entry 0, and
    NaN as 16-bit audio is silence.
    """
    named = tensors.state_dict() if isinstance(tensors, nn.Module) else tensors
    for name, tensor in named.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise UserError(
                f"{place}: {count:,} of the {tensor.numel():,} values of {name} are NaN or "
                "infinite; take an earlier checkpoint, or make the weights again"
            )


def refuse_nonfinite_audio(audio: Tensor, maker: str) -> None:
    """Raise UserError where a model's output is NaN or infinite: as a file it would be silence."""
    if not bool(torch.isfinite(audio).all()):
        raise UserError(
            f"{maker} gave {int((~torch.isfinite(audio)).sum()):,} samples of {audio.numel():,} "
            "that are NaN or infinite; its weights do not fit, or it must run in float32"
        )
