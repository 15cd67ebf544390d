"""LoRA on the temporal transformer of a Moshi whose own weights stay frozen, in whatever type.

    y = W x + scaling * B (A x)

A chosen Linear stays the model's own object: its class is exchanged for a subclass and two children
are added, so every key of the base model keeps its name and every tensor its bytes. A and B are
float32 whatever the base is, and compute in the base's type, as the exported pair will. B starts at
0, so that the model starts as the base.

The published LoRALinear makes all Linears of a model trainable, in one type, renames the base's
weights and draws B at random; files are exchanged with it (`ttt.moshi.training.lora_files`).

Source: Hu et al., "LoRA", 2106.09685; kyutai-labs/moshi-finetune at 2acc879 (where A and B start).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from moshi.models.lm import LMModel
from moshi.modules.gating import ActivationGating, gating_forward_generic
from torch import Tensor, nn
from torch.nn import functional as F

from ttt.errors import UserError
from ttt.moshi.insert import temporal_layers, ttt_layers
from ttt.moshi.lora import linears_with_lora
from ttt.moshi.training.config import LORA_TARGETS, LoRATarget


class LoRALinear(nn.Linear):
    """A frozen Linear with a trained low-rank part beside it; made by `insert_lora` only."""

    lora_A: nn.Linear  # noqa: N815, the published name
    lora_B: nn.Linear  # noqa: N815
    scaling: float

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out] in the base's type."""
        low, high = (each.weight.to(input.dtype) for each in (self.lora_A, self.lora_B))
        return super().forward(input) + self.scaling * F.linear(F.linear(input, low), high)


class LoRAGating(ActivationGating):
    """Moshi's feed-forward block, which hands the weights of a Linear to a kernel, with its
    Linears called instead; made by `insert_lora` only."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, dim] to [B, T, dim]."""
        return gating_forward_generic(self.linear_in, self.linear_out, self.activation, x)


def insert_lora(
    lm: LMModel,
    rank: int,
    scaling: float = 2.0,
    targets: Sequence[LoRATarget] = LORA_TARGETS,
    *,
    generator: torch.Generator | None = None,
) -> int:
    """Put a low-rank part beside Linears of the temporal transformer, before TTT is inserted.

    Args:
        lm: loaded, without LoRA and without TTT.
        rank: width of the low-rank part.
        scaling: factor on it (moshi-finetune trains with 2).
        targets: in_projs and out_projs of attention, gating for both Linears of the feed-forward
            block.
        generator: draws A; None is torch's own.

    Returns:
        Number of Linears changed.

    Raises:
        UserError: the rank, the targets or the model do not fit; the model is then unchanged.
    """

    def drawn(linear: nn.Linear) -> tuple[nn.Linear, nn.Linear]:
        # On the CPU, so that a seed gives the same numbers on every device.
        low, high = _pair(linear, rank)
        nn.init.kaiming_uniform_(low.weight, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(high.weight)
        device = linear.weight.device
        return low.to(device), high.to(device)

    return _insert(lm, rank, scaling, targets, drawn)


def insert_unset_lora(lm: LMModel, rank: int, scaling: float, targets: Sequence[LoRATarget]) -> int:
    """`insert_lora` without drawing: for whoever sets every parameter right after, or wants shapes
    alone."""

    def unset(linear: nn.Linear) -> tuple[nn.Linear, nn.Linear]:
        with torch.device("meta"):
            low, high = _pair(linear, rank)
        device = linear.weight.device
        return low.to_empty(device=device), high.to_empty(device=device)

    return _insert(lm, rank, scaling, targets, unset)


def _insert(
    lm: LMModel,
    rank: int,
    scaling: float,
    targets: Sequence[LoRATarget],
    make: Callable[[nn.Linear], tuple[nn.Linear, nn.Linear]],
) -> int:
    _check(lm, rank, targets)
    chosen = targeted(lm, targets)
    for linear in chosen:
        low, high = make(linear)
        linear.__class__ = LoRALinear
        assert isinstance(linear, LoRALinear)
        linear.lora_A, linear.lora_B, linear.scaling = low, high, scaling
    for block in _gatings(lm) if "gating" in targets else ():
        block.__class__ = LoRAGating
    return len(chosen)


def _pair(linear: nn.Linear, rank: int) -> tuple[nn.Linear, nn.Linear]:
    """A and B for a Linear, with what torch draws."""
    exact = torch.float64 if linear.weight.dtype == torch.float64 else torch.float32
    return (
        nn.Linear(linear.in_features, rank, bias=False, dtype=exact),
        nn.Linear(rank, linear.out_features, bias=False, dtype=exact),
    )


def take_out_lora(lm: LMModel) -> None:
    """Leave the Linears as the base has them, without their low-rank parts."""
    linears: list[nn.Module] = [*lora_linears(lm).values()]
    for linear in linears:
        del linear.lora_A, linear.lora_B, linear.scaling
        linear.__class__ = nn.Linear
    for block in _gatings(lm):
        block.__class__ = ActivationGating


def match_rank(lm: LMModel, targets: Sequence[LoRATarget], parameters: int) -> int:
    """The rank whose LoRA has the number of parameters nearest to `parameters`; at least 1.

    Of two that are equally near it is the lower one. The model is not changed.

    Raises:
        UserError: targets that are none.
    """
    _check_targets(targets)
    per_rank = lora_parameters(lm, 1, targets)
    lower = max(1, parameters // per_rank)
    return min((lower, lower + 1), key=lambda rank: abs(rank * per_rank - parameters))


def lora_parameters(lm: LMModel, rank: int, targets: Sequence[LoRATarget] = LORA_TARGETS) -> int:
    """The number of parameters that `insert_lora` would add."""
    return rank * sum(each.in_features + each.out_features for each in targeted(lm, targets))


def lora_linears(lm: LMModel) -> dict[str, LoRALinear]:
    """The Linears with LoRA of a model by their names; empty for a base model."""
    return {name: each for name, each in lm.named_modules() if isinstance(each, LoRALinear)}


def targeted(lm: LMModel, targets: Sequence[LoRATarget]) -> list[nn.Linear]:
    """The Linears of the temporal transformer that the targets name, in the model's order."""
    found: list[nn.Linear] = []
    for layer in temporal_layers(lm):
        attention, block = layer.self_attn, layer.gating
        parts: dict[str, list[nn.Module]] = {
            "in_projs": [*attention.in_projs],
            "out_projs": [*attention.out_projs],
            "gating": [],
        }
        if isinstance(block, ActivationGating):
            parts["gating"] = [block.linear_in, block.linear_out]
        for target in targets:
            found += [each for each in parts[target] if isinstance(each, nn.Linear)]
    return found


def _gatings(lm: LMModel) -> Iterator[nn.Module]:
    for layer in temporal_layers(lm):
        if isinstance(layer.gating, ActivationGating):
            yield layer.gating


def _check(lm: LMModel, rank: int, targets: Sequence[LoRATarget]) -> None:
    _check_targets(targets)
    if rank < 1:
        raise UserError(f"the rank of LoRA must be 1 or more, not {rank}")
    if present := linears_with_lora(lm):
        raise UserError(
            f"this model has LoRA in {len(present)} Linears already, the first {present[0]}; load "
            "the base anew"
        )
    if layers := list(ttt_layers(lm)):
        raise UserError(f"this model has TTT in layers {layers} already: insert LoRA before TTT")
    if not targeted(lm, targets):
        raise UserError(
            f"this model has no Linear for {', '.join(targets)}: choose other targets, or load a "
            "Moshi that is not quantized"
        )


def _check_targets(targets: Sequence[LoRATarget]) -> None:
    known = set(LORA_TARGETS)
    if not targets or len(set(targets)) < len(targets) or set(targets) - known:
        raise UserError(
            f"targets={list(targets)} must name one or more of {', '.join(LORA_TARGETS)}, each once"
        )
