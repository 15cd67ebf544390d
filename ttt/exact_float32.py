"""float32 that is float32: what GPUs round away by themselves unless they are told not to.

PyTorch lets convolutions take their inputs rounded to ten bits (TF32) and matrix products of half
precision add up in half precision. Codes are the nearest of some thousand vectors: such rounding
changed one in a hundred of them in a trial, and everything that is measured afterwards.
"""

from __future__ import annotations

from types import TracebackType

import torch

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
