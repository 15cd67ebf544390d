"""The activation's Triton kernels without a GPU, in a process of their own.

python -m tests.ttt.snac.layers.kernel_trials compile       a line per kernel and type
TRITON_INTERPRET=1 python -m ... interpret                  raises where a number is wrong
"""

from __future__ import annotations

import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ttt.snac.layers import kernel
from ttt.snac.layers.snake import BLOCK, backward_plainly, forward_plainly

SAMPLES = {"x_ptr", "y_ptr", "grad_ptr", "grad_x_ptr"}
"""Pointers to what has the input's type; the others are float32."""


def compile_for_hopper() -> None:
    """Every kernel in every type, to machine code for sm_90."""
    for function in (kernel.snake_forward, kernel.snake_backward):
        for dtype in ("bf16", "fp16", "fp32"):
            kinds = {name: _kind(name, dtype) for name in function.arg_names}
            source = ASTSource(fn=function, signature=kinds, constexprs={})
            target = GPUTarget("cuda", 90, 32)
            made = triton.compile(source, target=target, options={"num_warps": kernel.WARPS})
            assert ".target sm_90" in made.asm["ptx"]
            print(function.__name__, dtype, len(made.asm["cubin"]))


def _kind(name: str, dtype: str) -> str:
    if name.endswith("_ptr"):
        return f"*{dtype if name in SAMPLES else 'fp32'}"
    return "i32"


def interpret() -> None:
    """Values and gradients against the plain operations, where blocks end and do not."""
    for shape in ((2, 3, 2 * BLOCK + 37), (1, 2, BLOCK), (3, 1, 1), (0, 2, 5), (2, 2, 0)):
        for dtype, within in ((torch.float32, 2e-6), (torch.bfloat16, 1.6e-2)):
            torch.manual_seed(0)
            x, grad = (3 * torch.randn(shape).to(dtype) for _ in range(2))
            alpha = torch.rand(1, shape[1], 1) * 3 + 0.05
            y, (grad_x, parts) = kernel.forward(x, alpha), kernel.backward(grad, x, alpha)
            of_x, of_alpha = backward_plainly(grad, x, alpha)
            assert y.dtype == grad_x.dtype == dtype
            torch.testing.assert_close(y, forward_plainly(x, alpha), rtol=within, atol=within)
            torch.testing.assert_close(grad_x, of_x, rtol=within, atol=within)
            found = parts.sum(dim=(0, 1)).view_as(alpha)
            torch.testing.assert_close(found, of_alpha, rtol=1e-4, atol=5e-3)
    print("as the plain operations")


if __name__ == "__main__":
    {"compile": compile_for_hopper, "interpret": interpret}[sys.argv[1]]()
