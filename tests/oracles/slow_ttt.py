"""A TTT layer that knows only the definition: head by head, token by token, gradients by autograd.

Whatever a control does to the inner loop is done here in the plainest way: every answer begins with
the weights at the mini-batch's start and takes its steps over the mini-batch's tokens up to it, one
gradient of one token at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.oracles.slow_lact import slow_lact
from ttt.layers import InnerControls, TTTLayer


def slow_layer(layer: TTTLayer, x: Tensor, controls: InnerControls | None = None) -> Tensor:
    """x [T, dim] -> y [T, dim], of any flavour."""
    if layer.config.flavour == "lact":
        return slow_lact(layer, x, controls)
    config, controls = layer.config, controls or InnerControls()
    width, size = config.head_dim, config.mini_batch_size
    heads = []
    for head in range(config.num_heads):
        own = slice(head * width, (head + 1) * width)
        norm = (layer.ttt_norm_weight[head], layer.ttt_norm_bias[head])
        names = ("W1", "b1", "W2", "b2") if config.kind == "mlp" else ("W1", "b1")
        weights = [layer.get_parameter(name)[head] for name in names]
        heard: list[tuple[Tensor, Tensor, Tensor]] = []
        answers = []
        for t, token in enumerate(x):
            place = t % size
            q, k, v = (
                F.linear(token, p.weight[own], p.bias[own] if p.bias is not None else None)
                for p in (layer.q_proj, layer.k_proj, layer.v_proj)
            )
            if config.flavour == "video_dit":
                q, k = q / q.norm(), k / k.norm()
            if config.rope_theta is not None:
                q, k = turn(q, place, config.rope_theta), turn(k, place, config.rope_theta)
            if controls.query_is_key:
                q = k
            target = v - k
            if config.flavour == "ttt_lm":
                falling = torch.tensor(1 / (place + 1), dtype=torch.float32).double()
                eps, rate = 1e-6, (falling + layer.learnable_token_idx[place]).clamp(min=0)
            else:
                target = (target - target.mean()) / (target.std() + 1e-8) * norm[0] + norm[1]
                eps, rate = 1e-8, 1 / size
            gate = (
                layer.learnable_ttt_lr_weight[head, 0] @ token + layer.learnable_ttt_lr_bias[head]
            )
            step = config.base_lr * torch.sigmoid(gate) / width
            step = -step if controls.ascent else step
            heard.append((k, target, step if controls.updates else 0 * step))
            now = weights
            for _ in range(controls.inner_steps):
                moves = [gradients(now, *each, norm, eps) for each in heard]
                now = [w - rate * sum(move[n] for move in moves) for n, w in enumerate(now)]
            answers.append(q + F.layer_norm(small_model(now, q), (width,), *norm, eps))
            if place == size - 1:
                weights, heard = now, []
        heads.append(torch.stack(answers))
    return layer.o_proj(layer.post_norm(torch.cat(heads, dim=-1)))


def gradients(
    weights: list[Tensor],
    key: Tensor,
    target: Tensor,
    step: Tensor,
    norm: tuple[Tensor, Tensor],
    eps: float,
) -> list[Tensor]:
    """A token's step times the gradient of its loss at these weights."""
    outer = torch.is_grad_enabled()  # Else nothing of the graph outlives the token.
    with torch.enable_grad():
        at = [w if outer else w.clone().requires_grad_() for w in weights]
        error = F.layer_norm(small_model(at, key), (len(key),), *norm, eps) - target
        found = torch.autograd.grad(0.5 * error.square().sum(), at, create_graph=outer)
    return [step * gradient for gradient in found]


def small_model(weights: list[Tensor], x: Tensor) -> Tensor:
    """f(x)."""
    hidden = x @ weights[0] + weights[1][0]
    for weight, bias in zip(weights[2::2], weights[3::2], strict=True):
        hidden = F.gelu(hidden, approximate="tanh") @ weight + bias[0]
    return hidden


def turn(x: Tensor, place: int, theta: float) -> Tensor:
    """Rotary embedding as a product of complex numbers (float32 angles, as published)."""
    rates = 1.0 / theta ** (torch.arange(0, len(x), 2, dtype=torch.float32) / len(x))
    angles = place * rates
    factors = torch.complex(angles.cos().double(), angles.sin().double())
    return torch.view_as_real(torch.view_as_complex(x.view(-1, 2)) * factors).flatten()
