"""SNAC's activation x + sin^2(alpha x) / alpha, kept in the input's type and cheap to train.

    y = snake(x, alpha)             # x [B, C, T], alpha [1, C, 1] -> [B, C, T]

The values are those of `snac.layers.snake`; on a CPU in float32 and float64 they are the same bits.
For the backward nothing is kept but x, alpha and, on a CPU, y. Whatever the type of x, what lies
in memory is of that type and what is computed is float32 at least: in snac the float32 alpha turns
activations in bfloat16 into float32, which is most of a step's traffic.

On CUDA each way is one Triton kernel (`ttt.snac.layers.kernel`), or the plain operations where it
does not work, as without a C compiler, and for float64; on a CPU it is the plain operations.
"""

from __future__ import annotations

import functools
import importlib
import subprocess
import warnings
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = 1e-9
"""What snac adds to alpha before it divides by it."""


def snake(x: Tensor, alpha: Tensor) -> Tensor:
    """x + sin^2(alpha x) / (alpha + EPSILON) of x [B, C, T] and alpha [1, C, 1], in x's type."""
    if not torch.is_grad_enabled():
        return _forward(x, alpha)
    return cast(Tensor, _Snake.apply(x, alpha))


class _Snake(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        y = _forward(x, alpha)
        # The convolution behind it keeps y anyway, and with y there is no second sine to take.
        at_hand = x.device.type == "cpu" and x.dtype == _computed_in(x, alpha)
        ctx.save_for_backward(x, alpha, *([y] if at_hand else []))
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, alpha, *y = ctx.saved_tensors
        if _has_kernel(x, alpha):
            grad_x, parts = torch.ops.ttt.snake_backward(grad.contiguous(), x.contiguous(), alpha)
            return grad_x, parts.sum(dim=(0, 1)).view_as(alpha).to(alpha.dtype)
        return backward_plainly(grad, x, alpha, *y)


def _forward(x: Tensor, alpha: Tensor) -> Tensor:
    if _has_kernel(x, alpha):
        return torch.ops.ttt.snake(x.contiguous(), alpha)
    return forward_plainly(x, alpha)


def forward_plainly(x: Tensor, alpha: Tensor) -> Tensor:
    """The value by torch's operations, in snac's order."""
    alpha = alpha.to(_computed_in(x, alpha))
    wave = (alpha * x).sin_().square_().mul_((alpha + EPSILON).reciprocal())
    return wave.add_(x).to(x.dtype)


def backward_plainly(
    grad: Tensor, x: Tensor, alpha: Tensor, y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of alpha by torch's operations, on a CPU some channels at a time.

    `y` are the values where they are at hand, not rounded; otherwise they are computed again.
    """
    dtype = _computed_in(x, alpha)
    channels, length = x.shape[0] * x.shape[1], x.shape[2]
    x_rows, grad_rows = x.reshape(channels, length), grad.reshape(channels, length)
    y_rows = None if y is None else y.reshape(channels, length)
    alpha_rows = alpha.to(dtype).expand(len(x), -1, 1).reshape(channels, 1)
    inverse_rows = (alpha_rows + EPSILON).reciprocal()
    grad_x = torch.empty(channels, length, dtype=x.dtype, device=x.device)
    of_alpha = torch.empty(channels, dtype=dtype, device=x.device)
    at_once = max(1, _CACHED_VALUES // max(1, length)) if x.device.type == "cpu" else channels
    for start in range(0, channels, at_once):
        part = slice(start, start + at_once)
        value, slope, alphas = x_rows[part].to(dtype), grad_rows[part], alpha_rows[part]
        made = forward_plainly(value, alphas) if y_rows is None else y_rows[part]
        wave = (2 * alphas * value).sin_().mul_(slope)
        torch.sum((value - made).mul_(slope).addcmul_(wave, value), dim=1, out=of_alpha[part])
        torch.add(wave.mul_(alphas * inverse_rows[part]), slope, out=grad_x[part])
    grad_alpha = (of_alpha * inverse_rows[:, 0]).view(x.shape[:2]).sum(dim=0)
    return grad_x.view(x.shape), grad_alpha.view_as(alpha).to(alpha.dtype)


_CACHED_VALUES = 1 << 18
"""So many of a few tensors fit into a core's cache."""


def _computed_in(x: Tensor, alpha: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(x.dtype, alpha.dtype), torch.float32)


# -- CUDA ------------------------------------------------------------------------------------------

BLOCK = 1024
"""Samples of one channel that one program of the kernel takes."""

_operations = torch.library.Library("ttt", "DEF")
_operations.define("snake(Tensor x, Tensor alpha) -> Tensor")
_operations.define("snake_backward(Tensor grad, Tensor x, Tensor alpha) -> (Tensor, Tensor)")


def _has_kernel(x: Tensor, alpha: Tensor) -> bool:
    return x.is_cuda and _computed_in(x, alpha) == torch.float32


def _forward_on_cuda(x: Tensor, alpha: Tensor) -> Tensor:
    kernel = _kernel_now()
    return forward_plainly(x, alpha) if kernel is None else kernel.forward(x, alpha)


def _backward_on_cuda(grad: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of x, and that of alpha in parts [B, blocks, C], to be summed."""
    kernel = _kernel_now()
    if kernel is not None:
        return kernel.backward(grad, x, alpha)
    grad_x, grad_alpha = backward_plainly(grad, x, alpha)
    parts = grad_x.new_zeros(_parts(x), dtype=torch.float32)
    parts[:1, :1] = grad_alpha.view(-1)
    return grad_x, parts


def _parts(x: Tensor) -> tuple[int, int, int]:
    batch, channels, length = x.shape
    return batch, -(-length // BLOCK), channels


def _shapes_forward(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.empty_like(x)


def _shapes_backward(grad: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(_parts(x), dtype=torch.float32)


_operations.impl("snake", _forward_on_cuda, "CUDA")
_operations.impl("snake_backward", _backward_on_cuda, "CUDA")
torch.library.register_fake("ttt::snake", _shapes_forward)
torch.library.register_fake("ttt::snake_backward", _shapes_backward)


def _kernel_now() -> ModuleType | None:
    """The kernels; None before they were tried while a graph is captured, which a trial ends."""
    if not _kernel.cache_info().currsize and torch.cuda.is_current_stream_capturing():
        return None
    return _kernel()


@functools.cache
def _kernel() -> ModuleType | None:
    """The module with the kernels, tried once, or None where they do not work, which is said."""
    failures: list[type[Exception]] = [ImportError, OSError, subprocess.SubprocessError]
    try:
        kernel = importlib.import_module("ttt.snac.layers.kernel")
        failures += [kernel.TritonError, RuntimeError, AssertionError]
        _try_out(kernel)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # which say nothing about the kernel
    except tuple(failures) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        card = torch.cuda.get_device_name()
        warnings.warn(
            f"the decoder's activation runs about four times slower on {card} because its Triton "
            f"kernel does not work there ({type(error).__name__}: {reason}); install gcc and "
            "libc6-dev, and triton as requirements.lock names it",
            stacklevel=2,
        )
        return None
    return kernel


def _try_out(kernel: ModuleType) -> None:
    """Raises what a compiler or a driver comes up with, and AssertionError for other numbers."""
    x = torch.linspace(-4, 4, 96, device="cuda").view(2, 3, 16)
    alpha = torch.tensor([0.5, 1.0, 2.0], device="cuda").view(1, 3, 1)
    grad_x, parts = kernel.backward(x.sin(), x, alpha)
    found = kernel.forward(x, alpha), grad_x, parts.sum(dim=(0, 1)).view_as(alpha)
    expected = forward_plainly(x, alpha), *backward_plainly(x.sin(), x, alpha)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
