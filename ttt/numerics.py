"""Numbers that are what they seem: float32 without hidden rounding, and no NaN in a file.

PyTorch lets convolutions take their inputs rounded to ten bits (TF32) and matrix products of half
precision add up in half precision. Codes are the nearest of some thousand vectors: such rounding
changed one in a hundred of them in a trial, and everything that is measured afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor, nn

from ttt.errors import UserError

_FLAGS = (
    (torch.backends.cudnn, "allow_tf32", False),
    (torch.backends.cuda.matmul, "allow_tf32", False),
    (torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False),
    (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
    # The same algorithm every time: which one is fastest may differ from run to run.
    (torch.backends.cudnn, "deterministic", True),
    (torch.backends.cudnn, "benchmark", False),
)


class exact_float32:  # noqa: N801, used as torch.no_grad is
    """Compute without hidden rounding from here on in this process, or inside a `with` block."""

    def __init__(self) -> None:
        self._before = [getattr(where, name) for where, name, _ in _FLAGS]
        for where, name, value in _FLAGS:
            setattr(where, name, value)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for (where, name, _), before in zip(_FLAGS, self._before, strict=True):
            setattr(where, name, before)


def float32_is_exact() -> bool:
    """Whether every switch is where `exact_float32` puts it."""
    return all(getattr(where, name) == value for where, name, value in _FLAGS)


def computed_with(parameter: Tensor) -> tuple[str, str]:
    """The kind of device and the precision that a model of this parameter computes with."""
    precision = str(parameter.dtype).removeprefix("torch.")
    if parameter.device.type != "cpu" and not float32_is_exact():
        precision += "+tf32"
    return parameter.device.type, precision


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
