"""What the training loop says to its peers: sums, short texts, one comparison.

Every call is collective: all ranks make the same calls in the same order. There is no wrapper
around the model: ranks add up gradients with `sum_`, so unfreezing needs no new wrapper and
nothing is synchronised behind the loop's back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Communicator(Protocol):
    """One rank among `world` ranks."""

    rank: int
    world: int

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its sum over the ranks."""
        ...

    def from_first(self, text: str | None) -> str | None:
        """The text that rank 0 passes, on every rank."""
        ...

    def all_texts(self, text: str) -> list[str]:
        """What every rank passes, by rank."""
        ...


class SingleProcess:
    """The only rank."""

    rank = 0
    world = 1

    def sum_(self, tensor: Tensor) -> Tensor:
        return tensor

    def from_first(self, text: str | None) -> str | None:
        return text

    def all_texts(self, text: str) -> list[str]:
        return [text]


class ProcessGroup:
    """The ranks of torch.distributed's default group (gloo or nccl), set up by the caller."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()

    def sum_(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def from_first(self, text: str | None) -> str | None:
        box = [text]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def all_texts(self, text: str) -> list[str]:
        texts = [""] * self.world
        dist.all_gather_object(texts, text)
        return texts


def sum_gradients(
    parameters: Sequence[nn.Parameter], terms: dict[str, Tensor], group: Communicator
) -> dict[str, Tensor]:
    """Sum gradients and loss terms over the ranks in one flat buffer; returns the summed terms."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if group.world == 1:
        return terms
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(g.reshape(-1) for g in gradients), torch.stack(list(terms.values()))])
    group.sum_(flat)
    *summed, values = flat.split([*(g.numel() for g in gradients), len(terms)])
    for gradient, total in zip(gradients, summed, strict=True):
        gradient.copy_(total.view_as(gradient))
    return dict(zip(terms, values.unbind(), strict=True))


def require_equal(group: Communicator, named: Iterable[tuple[str, Tensor]], what: str) -> None:
    """Compare a hash of tensors over the ranks.

    Raises RuntimeError on every rank when one differs: the ranks have drifted apart.
    """
    digest = hashlib.sha256()
    device = torch.device("cpu")
    for name, tensor in named:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        device = tensor.device
    mine = torch.tensor(list(digest.digest()), dtype=torch.int64, device=device)
    table = torch.zeros(group.world, len(mine), dtype=torch.int64, device=device)
    table[group.rank] = mine
    group.sum_(table)
    if not bool((table == table[0]).all()):
        raise RuntimeError(f"{what} differ between the ranks; this is a bug in the training loop")
