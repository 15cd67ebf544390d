"""How far what lies outside a slice of codes reaches into its decoded audio.

A slice decoded alone has zeros (or nothing) where the whole clip has neighbours. Everything
nearer to the slice's ends than its reach may differ from the decode of the whole clip;
everything farther in is the same. The reach is worked out from the modules' kernels, strides,
dilations and paddings, so it holds for every configuration of SNAC's convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from snac.layers import DecoderBlock, NoiseBlock, ResidualUnit, Snake1d
from torch import nn

from ttt.audio import resample


@dataclass(frozen=True)
class Reach:
    """Samples (or frames) at a slice's start and at its end that its neighbours reach."""

    start: int = 0
    end: int = 0

    def needed(self, start: int, stop: int, stride: int, length: int) -> tuple[int, int]:
        """The part of `length` inputs that the outputs [start, stop) of a stage depend on, for a
        stage of this reach that makes `stride` outputs of an input."""
        first, last = (start - self.start) // stride, -((-stop - self.end) // stride)
        return max(0, first), min(length, last)

    def through(self, module: nn.Module) -> Reach:
        """The reach in the output of `module`, in samples at its output's rate.

        Raises TypeError for a module whose reach is not known, such as attention.
        """
        if isinstance(module, nn.Conv1d):
            return self._through_conv(module)
        if isinstance(module, nn.ConvTranspose1d):
            return self._through_conv_transpose(module)
        if isinstance(module, DecoderBlock | ResidualUnit):
            # A residual unit's skip path reaches less far than its convolutions.
            return self.through(module.block)
        if isinstance(module, nn.Sequential):
            reach = self
            for layer in module:
                reach = reach.through(layer)
            return reach
        if isinstance(module, NoiseBlock | Snake1d | nn.Tanh):
            return self
        raise TypeError(f"the receptive field of {type(module).__name__} is not known")

    def through_resample(self, from_rate: int, to_rate: int) -> Reach:
        """The reach after `ttt.audio.resample` to a whole multiple of the rate.

        Measured on the resampler's own impulse response, not typed in.
        """
        stride, length = to_rate // from_rate, 512
        impulse = torch.zeros(1, length, dtype=torch.float64)
        impulse[0, length // 2] = 1.0
        touched = resample(impulse, from_rate, to_rate)[0].nonzero()
        first, last = (int(edge) - length // 2 * stride for edge in (touched[0], touched[-1]))
        return Reach(self.start * stride + last - (stride - 1), self.end * stride - first)

    def widest(self, other: Reach) -> Reach:
        """The reach of the sum of two signals."""
        return Reach(max(self.start, other.start), max(self.end, other.end))

    def _through_conv(self, conv: nn.Conv1d) -> Reach:
        # Output j reads inputs j - padding ... j - padding + (kernel - 1) * dilation.
        padding = int(conv.padding[0])
        span = (conv.kernel_size[0] - 1) * conv.dilation[0]
        return Reach(self.start + padding, self.end + span - padding)

    def _through_conv_transpose(self, conv: nn.ConvTranspose1d) -> Reach:
        # Input i reaches outputs i * stride - padding ... i * stride - padding + kernel - 1.
        stride, padding, kernel = conv.stride[0], int(conv.padding[0]), conv.kernel_size[0]
        return Reach(self.start * stride + kernel - padding - stride, self.end * stride + padding)
