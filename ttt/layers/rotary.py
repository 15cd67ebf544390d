"""Rotary embedding of neighbouring pairs, with positions that start anew in every mini-batch."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def rotate(x: Tensor, first: int, positions: int, theta: float) -> Tensor:
    """Turn each pair (x[2i], x[2i+1]) by its position's angle, position * theta^(-2i/d).

    Args:
        x: [..., T, d] tokens at `first`, `first + 1`, ... modulo `positions`.
    """
    cos, sin = _tables(positions, x.shape[-1], theta, x.device, x.dtype)
    places = torch.arange(first, first + x.shape[-2], device=x.device) % positions
    cos, sin = cos[places], sin[places]
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


@lru_cache(maxsize=64)
def _tables(
    positions: int, width: int, theta: float, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """cos and sin [positions, width / 2], float32 numbers as in the reference."""
    # A table made under inference_mode could not be used in training afterwards.
    with torch.inference_mode(False):
        pairs = torch.arange(0, width, 2, device=device, dtype=torch.float32)
        places = torch.arange(positions, device=device, dtype=torch.float32)
        angles = places[:, None] * (1.0 / theta ** (pairs / width))
        return angles.cos().to(dtype), angles.sin().to(dtype)
