"""Rotary embedding of neighbouring pairs, with positions that start anew in every mini-batch."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def rotate(x: Tensor, first: int, positions: int, theta: float) -> Tensor:
    """Turn each pair (x[2i], x[2i+1]) by its position's angle, position * theta^(-2i/d).

    Args:
        x: [..., T, d] tokens at `first`, `first + 1`, ... modulo `positions`; contiguous.
    """
    first %= positions
    last = first + x.shape[-2]
    turns = _turns(positions, -(-last // positions), x.shape[-1], theta, x.device, x.dtype)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns[first:last]).flatten(-2)


@lru_cache(maxsize=64)
def _turns(
    positions: int, rounds: int, width: int, theta: float, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """cos + i sin [rounds * positions, width / 2], float32 numbers as in the reference."""
    # A table made under inference_mode could not be used in training afterwards.
    with torch.inference_mode(False):
        pairs = torch.arange(0, width, 2, device=device, dtype=torch.float32)
        places = torch.arange(positions, device=device, dtype=torch.float32)
        angles = (places[:, None] * (1.0 / theta ** (pairs / width))).repeat(rounds, 1)
        return torch.complex(angles.cos().to(dtype), angles.sin().to(dtype))
