"""What keeps a GPU busy between two steps: copies ahead, one read back, the fastest convolutions.

On a CPU each of these does what the plain call does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def copied_ahead(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; to a GPU it goes from pinned memory, and nobody waits for it.

    The tensor may be overwritten at once: the pinned memory is a copy.
    """
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def read_together(values: Sequence[Tensor]) -> list[float]:
    """Single numbers of one device, [] each, read from it at once."""
    return torch.stack([value.detach() for value in values]).cpu().tolist()


@contextmanager
def fixed_shapes() -> Iterator[None]:
    """Inside, cuDNN tries its algorithms once for each shape and keeps to the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
