"""The activation's Triton kernels, one each way; imported only where there is CUDA and Triton.

Both read a tensor [B, C, T] in the type it has, compute in float32 and write that type. A program
takes up to BLOCK samples of one channel of one row. The gradient of alpha comes out as one part
per program, which are summed afterwards: in an order that never changes, and without a buffer of
zeros to add into.
"""

# What is compiled is typed by Triton when it is launched.
# pyright: reportMissingParameterType=false, reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError as TritonError

from ttt.snac.layers.snake import BLOCK, EPSILON

WARPS = 8
"""Of a program: with fewer, each thread holds so many samples that few programs fit on a core."""
_BLOCK = tl.constexpr(BLOCK)
_EPSILON = tl.constexpr(EPSILON)


def forward(x: Tensor, alpha: Tensor) -> Tensor:
    """The activation of x [B, C, T], which is contiguous."""
    batch, channels, length = x.shape
    y = torch.empty_like(x)
    grid = (batch * channels, triton.cdiv(length, BLOCK))
    if x.numel():
        with torch.cuda.device_of(x):
            snake_forward[grid](x, alpha, y, channels, length, num_warps=WARPS)
    return y


def backward(grad: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of x, and that of alpha in parts [B, blocks, C], of contiguous tensors."""
    batch, channels, length = x.shape
    blocks = triton.cdiv(length, BLOCK)
    grad_x = torch.empty_like(x)
    parts = torch.empty(batch, blocks, channels, dtype=torch.float32, device=x.device)
    if x.numel():
        with torch.cuda.device_of(x):
            snake_backward[(batch * channels, blocks)](
                grad, x, alpha, grad_x, parts, channels, length, num_warps=WARPS
            )
    return grad_x, parts


@triton.jit
def snake_forward(x_ptr, alpha_ptr, y_ptr, channels, length):
    """y = x + sin(alpha x)^2 / (alpha + epsilon)."""
    row = tl.program_id(0)
    at = tl.program_id(1) * _BLOCK + tl.arange(0, _BLOCK)
    inside = at < length
    place = row.to(tl.int64) * length + at
    alpha = tl.load(alpha_ptr + row % channels).to(tl.float32)
    x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
    sine = tl.sin(alpha * x)
    tl.store(y_ptr + place, x + sine * sine / (alpha + _EPSILON), mask=inside)


@triton.jit
def snake_backward(grad_ptr, x_ptr, alpha_ptr, grad_x_ptr, parts_ptr, channels, length):
    """The gradient of x by sample, and that of alpha summed over the program's samples."""
    row = tl.program_id(0)
    block = tl.program_id(1)
    channel = row % channels
    at = block * _BLOCK + tl.arange(0, _BLOCK)
    inside = at < length
    place = row.to(tl.int64) * length + at
    alpha = tl.load(alpha_ptr + channel).to(tl.float32)
    inverse = 1.0 / (alpha + _EPSILON)
    x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + place, mask=inside, other=0.0).to(tl.float32)
    sine = tl.sin(alpha * x)
    product = 2.0 * sine * tl.cos(alpha * x) * grad
    tl.store(grad_x_ptr + place, grad + product * (alpha * inverse), mask=inside)
    of_alpha = inverse * (product * x - grad * sine * sine * inverse)
    part = (row // channels) * tl.num_programs(1) + block
    tl.store(parts_ptr + part.to(tl.int64) * channels + channel, tl.sum(of_alpha, axis=0))
