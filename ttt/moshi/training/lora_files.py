"""LoRA on disk as moshi-finetune writes it and the published package loads it, fused or not.

A folder holds `lora.safetensors` (a pair `NAME.lora_A.weight` [rank, in] and `NAME.lora_B.weight`
[out, rank] for every Linear of the model) and `config.json` (the model's arguments with lora,
lora_rank and lora_scaling). The published loader wants a pair for every Linear, so those without
LoRA get one of zeros, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from moshi.models.lm import LMModel
from torch import Tensor, nn

from ttt.errors import UserError
from ttt.moshi.lora import PARTS, TENSORS, StoredLora, read_lora, write_lora
from ttt.moshi.training.config import LORA_TARGETS, LoRATarget
from ttt.moshi.training.lora import insert_lora, lora_linears
from ttt.moshi.ttt_files import base_fingerprint


def save_lora(lm: LMModel, folder: str | Path, arguments: Mapping[str, Any]) -> None:
    """Write the model's LoRA to `folder` (a path or URI).

    Args:
        arguments: of the base model, as its config.json has them.

    Raises:
        UserError: the model has no LoRA.
    """
    write_lora(folder, stored_lora(lm), arguments)


def stored_lora(lm: LMModel) -> StoredLora:
    """The model's LoRA as `write_lora` takes it, from no folder yet.

    Raises:
        UserError: the model has no LoRA.
    """
    trained = lora_linears(lm)
    if not trained:
        raise UserError("this model has no LoRA to save")
    one = next(iter(trained.values()))
    rank = one.lora_A.out_features
    tensors: dict[str, Tensor] = {}
    for name, linear in _base_linears(lm).items():
        if name in trained:
            pair = trained[name].lora_A.weight, trained[name].lora_B.weight
        else:
            # The loader casts them; in bfloat16 zeros take half the room.
            shapes = (rank, linear.in_features), (linear.out_features, rank)
            pair = tuple(torch.zeros(shape, dtype=torch.bfloat16) for shape in shapes)
        for part, tensor in zip(PARTS, pair, strict=True):
            tensors[f"{name}.{part}"] = tensor.detach().cpu().contiguous()
    return StoredLora("", tensors, rank, one.scaling, sha256="", base=base_fingerprint(lm))


@dataclass(frozen=True, eq=False)
class TrainedLoRA:
    """A LoRA of a folder for training to go on from."""

    rank: int
    scaling: float
    targets: tuple[LoRATarget, ...]
    """Those with a pair that is not zero."""
    tensors: dict[str, Tensor]

    @torch.no_grad()
    def fill(self, lm: LMModel) -> None:
        """Give a model's LoRA, inserted as this one, these values."""
        for name, linear in lora_linears(lm).items():
            linear.lora_A.weight.copy_(self.tensors[f"{name}.{PARTS[0]}"])
            linear.lora_B.weight.copy_(self.tensors[f"{name}.{PARTS[1]}"])


def load_lora(lm: LMModel, folder: str | Path) -> tuple[LoRATarget, ...]:
    """Insert the LoRA of a folder for training to go on from; before TTT is inserted.

    Returns:
        The targets that were inserted: those with a pair that is not zero.

    Raises:
        UserError: as `read_trained_lora`; the model is then unchanged.
    """
    found = read_trained_lora(lm, folder)
    insert_lora(lm, found.rank, found.scaling, found.targets)
    found.fill(lm)
    return found.targets


def read_trained_lora(lm: LMModel, folder: str | Path) -> TrainedLoRA:
    """Read the LoRA of a folder for a base model, which is not changed.

    Raises:
        UserError: files missing or damaged, TTT layers or other tensors inside, a pair that does
            not fit the model or lies outside of the targets.
    """
    stored = read_lora(folder)
    stored.require_base(base_fingerprint(lm))
    rank, tensors = stored.rank, stored.tensors
    _check_fit(lm, folder, rank, tensors)
    names: dict[LoRATarget, set[str]] = {target: _names(lm, target) for target in LORA_TARGETS}
    drawn, moved = (_not_zero(tensors, part) for part in PARTS)
    # Where B is zero the pair adds nothing, whatever A is.
    if outside := sorted(moved - set().union(*names.values())):
        raise UserError(
            f"{folder}: {TENSORS} trains {len(outside)} Linears outside of the temporal "
            f"transformer's {', '.join(LORA_TARGETS)}, the first {outside[0]}; it can be "
            "evaluated, but not trained further here"
        )
    targets: tuple[LoRATarget, ...] = tuple(
        target for target in names if names[target] & (drawn | moved)
    )
    if not targets:
        raise UserError(f"{folder}: all of {TENSORS} is zero; train from the base model instead")
    return TrainedLoRA(rank, stored.scaling, targets, tensors)


def _check_fit(lm: LMModel, folder: str | Path, rank: int, tensors: dict[str, Tensor]) -> None:
    wanted: dict[str, tuple[int, ...]] = {}
    for name, linear in _base_linears(lm).items():
        wanted[f"{name}.{PARTS[0]}"] = (rank, linear.in_features)
        wanted[f"{name}.{PARTS[1]}"] = (linear.out_features, rank)
    given = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if wrong := sorted(key for key in wanted | given if wanted.get(key) != given.get(key)):
        first = wrong[0]
        raise UserError(
            f"{folder}: {TENSORS} does not fit this model at rank {rank} in {len(wrong)} "
            f"tensors, the first {first} ({given.get(first, 'missing')}, not "
            f"{wanted.get(first, 'known')}); load the base it was trained with"
        )


def _not_zero(tensors: dict[str, Tensor], part: str) -> set[str]:
    """Names of the Linears whose part of the pair is not all zero."""
    end = f".{part}"
    return {k.removesuffix(end) for k, each in tensors.items() if k.endswith(end) and each.any()}


def _base_linears(lm: LMModel) -> dict[str, nn.Linear]:
    """Every Linear of the base model by name."""
    return {
        name: module
        for name, module in lm.named_modules()
        if isinstance(module, nn.Linear) and ".ttt." not in name and ".lora_" not in name
    }


def _names(lm: LMModel, target: LoRATarget) -> set[str]:
    """Names of the Linears of the temporal transformer that a target stands for."""
    return {
        name
        for name in _base_linears(lm)
        if name.startswith("transformer.layers.") and f".{target}." in name
    }
