"""`ttt.audio.resample` as a layer, whose filter is made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, cast

import torch
import torchaudio.transforms
from torch import Tensor, nn


class Resampler(nn.Module):
    """The bits of `ttt.audio.resample` in its own type; no entry in the weights.

    Torchaudio's function makes the filter anew in every call, and waits for a GPU to have it.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        super().__init__()
        self.from_rate, self.to_rate = from_rate, to_rate
        self._apply_filter = self._made(torch.float32)

    def forward(self, audio: Tensor) -> Tensor:
        """Audio [..., T] at the other rate."""
        return self._apply_filter(audio)

    def _made(self, dtype: torch.dtype) -> nn.Module:
        made = torchaudio.transforms.Resample(self.from_rate, self.to_rate, dtype=dtype)
        kernel = cast(Tensor, made.kernel)
        del made.kernel
        made.register_buffer("kernel", kernel, persistent=False)
        return made

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = cast(Tensor, self._apply_filter.kernel).dtype
        super()._apply(fn, recurse)
        kernel = cast(Tensor, self._apply_filter.kernel)
        if kernel.dtype != before:  # made anew, as a rounded one has the other's errors
            self._apply_filter = self._made(kernel.dtype).to(kernel.device)
        return self
