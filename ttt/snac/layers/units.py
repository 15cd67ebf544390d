"""SNAC's activation and residual unit, made ours in a coder that is there.

    with_own_layers(decoder)        # or encoder; in place; names of parameters stay

The activation is `ttt.snac.layers.snake`. A residual unit adds in place, and on a CPU the gradients
of its depthwise convolution are made of shifted products: torch's own take three times as long
there. What comes out is the same bits as from snac's layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from snac.layers import ResidualUnit, Snake1d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ttt.snac.layers.snake import snake


def with_own_layers(model: nn.Module) -> None:
    """Let every activation and residual unit in `model` be ours."""
    for module in model.modules():
        if type(module) is Snake1d:
            module.__class__ = Snake
        elif type(module) is ResidualUnit:
            module.__class__ = Unit


class Snake(Snake1d):
    """The activation, in its input's type."""

    def forward(self, x: Tensor) -> Tensor:
        return snake(x, self.alpha)


class Unit(ResidualUnit):
    """x + block(x)."""

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.block:
            y = _depthwise(layer, y) if _has_cheaper_gradients(layer, y) else layer(y)
        if y.dtype != x.dtype:  # autocast, and a unit that comes first
            return x + y
        return y.add_(x)  # No convolution keeps its output for the gradient.


def _has_cheaper_gradients(layer: nn.Module, x: Tensor) -> bool:
    return (
        isinstance(layer, nn.Conv1d)
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and layer.groups == layer.in_channels == layer.out_channels > 1
        and layer.bias is not None
        and layer.stride == (1,)
        and layer.kernel_size[0] % 2 == 1
        and layer.padding == ((layer.kernel_size[0] - 1) * layer.dilation[0] // 2,)
        and any(each.requires_grad for each in (x, *layer.parameters()))
    )


def _depthwise(layer: nn.Module, x: Tensor) -> Tensor:
    conv = cast(nn.Conv1d, layer)
    return cast(Tensor, _Depthwise.apply(x, conv.weight, conv.bias, conv.dilation[0]))


class _Depthwise(torch.autograd.Function):
    """Torch's convolution of each channel of x [B, C, T] by its own odd kernel [C, 1, K]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        padding = dilation * (weight.shape[2] // 2)
        return F.conv1d(x, weight, bias, padding=padding, dilation=dilation, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        taps = weight.shape[2]
        grad_x = torch.empty_like(x)
        grad_weight = torch.zeros_like(weight)
        at_once = max(1, _CACHED_VALUES // max(1, x[:1].numel()))
        for x_part, grad_part, into_x in zip(
            *(each.split(at_once) for each in (x, grad, grad_x)), strict=True
        ):
            torch.mul(grad_part, weight[:, :, taps // 2], out=into_x)
            grad_weight[:, 0, taps // 2] += _dot(grad_part, x_part)
            for tap, into, out_of in _shifts(x.shape[2], taps, ctx.dilation):
                into_x[..., out_of].addcmul_(grad_part[..., into], weight[:, :, tap])
                grad_weight[:, 0, tap] += _dot(grad_part[..., into], x_part[..., out_of])
        return grad_x, grad_weight, grad.sum(dim=(0, 2)), None


_CACHED_VALUES = 1 << 18
"""So many of a few tensors fit into a core's cache."""


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a, b).sum(dim=0)


def _shifts(length: int, taps: int, dilation: int) -> Iterator[tuple[int, slice, slice]]:
    """Each tap but the middle one: which samples of the output it adds to, out of which inputs."""
    for tap in range(taps):
        ahead = (tap - taps // 2) * dilation
        if ahead and abs(ahead) < length:
            last = length - max(0, ahead)
            yield tap, slice(max(0, -ahead), last), slice(max(0, ahead), last + ahead)
