"""What any training does with its optimizers: updates, rates by group, clipping, an average."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ttt.device_errors import is_out_of_memory
from ttt.errors import UserError


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

    def clip(self) -> Tensor:
        """Clip the gradients; returns their norm before, []."""
        return clip_gradients(self.parameters, self.clip_norm)

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Give each named group its learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rates[group["name"]]


def move_weights(updates: Iterable[Update], step: int) -> None:
    """The optimizers' steps, in the run's step (from 0).

    Raises:
        UserError: what an optimizer keeps, from its first step on, does not fit the memory.
    """
    for update in updates:
        try:
            update.optimizer.step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"step {step + 1}: out of memory when the optimizer moved the weights; the last "
                "checkpoint is intact: a new run with fewer trained parameters or with "
                f"optim.ema_decay=null takes less ({error})"
            ) from error


def load_state(optimizer: torch.optim.Optimizer, stored: dict[str, Any]) -> None:
    """Continue an optimizer from a checkpoint, which another kind of device may have written.

    Which kernels it takes stays as it was made, and its counters go where these want them.
    """
    own = [
        {name: group[name] for name in ("fused", "foreach") if name in group}
        for group in optimizer.param_groups
    ]
    groups = [{**group, **kept} for group, kept in zip(stored["param_groups"], own, strict=True)]
    optimizer.load_state_dict({**stored, "param_groups": groups})


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
        floating = {name: each for name, each in tensors.items() if each.is_floating_point()}
        averages = [self.weights[name] for name in floating]
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            averages, [*floating.values()], 1 - self.decay
        )
