"""A LaCT layer that knows only the definition: head by head, chunk by chunk, steps by autograd.

Matrices act on columns, W x, as the paper writes them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ttt.layers import InnerControls, TTTLayer


def slow_lact(layer: TTTLayer, x: Tensor, controls: InnerControls | None = None) -> Tensor:
    """x [T, dim] -> y [T, dim]."""
    config, controls = layer.config, controls or InnerControls()
    width = config.head_dim
    heads = []
    for head in range(config.num_heads):
        own = slice(head * width, (head + 1) * width)
        matrices = [layer.get_parameter(name)[head].T for name in ("W1", "W2", "W3")]
        lengths = [rows(matrix) for matrix in matrices]
        velocities = [torch.zeros_like(matrix) for matrix in matrices]
        answers, chunk = [], []
        for token in x:
            if len(chunk) == config.mini_batch_size:
                for _ in range(controls.inner_steps if controls.updates else 0):
                    matrices, velocities = learn(
                        matrices, velocities, lengths, chunk, layer, controls.ascent
                    )
                chunk = []
            q, k, v = (
                F.silu(p.weight[own] @ token) for p in (layer.q_proj, layer.k_proj, layer.v_proj)
            )
            q, k = q / (q.norm() + 1e-5), k / (k.norm() + 1e-5)
            answer = small_model(matrices, k if controls.query_is_key else q)
            scale = (answer.square().mean() + 1e-5).sqrt()
            answers.append(layer.get_parameter("ttt_norm_weight") * answer / scale)
            asked = layer.learnable_ttt_lr_weight[head] @ token + layer.learnable_ttt_lr_bias[head]
            rates = torch.log1p(torch.exp(asked) * (math.exp(config.base_lr) - 1))
            momentum = None
            if config.momentum:
                z = layer.momentum_weight[head, 0] @ token + layer.momentum_bias[head, 0]
                momentum = 1 / (1 + torch.exp(-z))
            chunk.append((k, v, rates, momentum))
        heads.append(torch.stack(answers))
    return torch.cat(heads, dim=-1) @ layer.o_proj.weight.T


def learn(
    matrices: list[Tensor],
    velocities: list[Tensor],
    lengths: list[Tensor],
    chunk: list[tuple[Tensor, Tensor, Tensor, Tensor | None]],
    layer: TTTLayer,
    ascent: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """The matrices and velocities after one step over a chunk."""
    outer = torch.is_grad_enabled()
    moved, after = [], []
    for number, matrix in enumerate(matrices):
        with torch.enable_grad():
            at = [m if outer else m.clone().requires_grad_() for m in matrices]
            # Each matrix has rates of its own, and so a loss of its own.
            loss = sum(-rates[number] * (small_model(at, k) @ v) for k, v, rates, _ in chunk)
            (slope,) = torch.autograd.grad(loss, at[number], create_graph=outer)
        velocity = -slope
        if layer.config.momentum:
            share = sum(token[3] for token in chunk) / len(chunk)
            velocity = velocity + share * velocities[number]
        new = matrix - velocity if ascent else matrix + velocity
        moved.append(new / (rows(new) + 1e-5) * lengths[number])
        after.append(velocity)
    return moved, after


def small_model(matrices: list[Tensor], x: Tensor) -> Tensor:
    """f(x) = W2 (silu(W1 x) * W3 x)."""
    gate = matrices[0] @ x
    return matrices[1] @ (gate / (1 + torch.exp(-gate)) * (matrices[2] @ x))


def rows(matrix: Tensor) -> Tensor:
    """The length of each row, [rows, 1]."""
    return matrix.square().sum(dim=1, keepdim=True).sqrt()
