"""What any training does with its optimizers: updates, rates by group, clipping, an average."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Update:
    """One optimizer of a phase and when it moves."""

    name: str
    """Its key in a checkpoint's optimizer.pt."""
    optimizer: torch.optim.Optimizer
    """Each parameter group carries "name"; the rates of all updates are set by those names."""
    clip_norm: float | None = None
    """Largest global gradient norm of its step; None leaves gradients as they are."""
    every: int = 1
    """It is due in every so many steps, the first included."""
    first_step: int = 0
    """And not before this step of the run."""

    def is_due(self, step: int) -> bool:
        """Whether it moves in the run's step (from 0)."""
        return step >= self.first_step and step % self.every == 0

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of all groups, in the optimizer's order."""
        return [each for group in self.optimizer.param_groups for each in group["params"]]

    def clip(self) -> float:
        """Clip the gradients; returns their norm before."""
        return float(clip_gradients(self.parameters, self.clip_norm))

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Give each named group its learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rates[group["name"]]


def clip_gradients(parameters: Iterable[nn.Parameter], clip_norm: float | None) -> Tensor:
    """Scale the gradients down to a global norm of `clip_norm`; returns the norm before, []."""
    parameters = list(parameters)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return norm


class WeightAverage:
    """An exponential moving average of tensors that are trained (EMA)."""

    def __init__(self, tensors: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def update(self, tensors: Mapping[str, Tensor]) -> None:
        """Move the average towards the tensors after a step."""
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor, 1 - self.decay)
