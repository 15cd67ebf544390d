"""LoRA as moshi-finetune leaves it, fused into the base model by the published loader's rule.

A folder holds `lora.safetensors` and `config.json`. For a Linear `x` of the base the file has
`x.lora_A.weight` [rank, in] and `x.lora_B.weight` [out, rank], and the configuration `lora_rank`
and `lora_scaling`; the weight becomes

    W + lora_scaling * (B @ A)

computed in the model's own type: the bits that `moshi.models.loaders` gives with `fuse_lora=True`.
A tensor under the name of one of the base's (embeddings, with moshi-finetune's `ft_embed`) takes
its place. A Linear without a pair stays as it is, where the published loader wants pairs for all;
so does one whose pair is all zeros, as it is written for that loader (which would turn the
Linear's weights of -0.0 into 0.0).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from moshi.models.lm import LMModel
from moshi.modules.transformer import StreamingMultiheadAttention
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from ttt import storage
from ttt.errors import UserError
from ttt.records import read_json, write_json

TENSORS, CONFIG = "lora.safetensors", "config.json"
PARTS = ("lora_A.weight", "lora_B.weight")
_TTT = (".ttt.", ".ttt_layer.", "ssm_gating", "target_generator", "w_down")
"""In the names of what a TTT layer adds: ours, and those of the original code."""


@dataclass(frozen=True, eq=False)
class StoredLora:
    """What a folder holds."""

    folder: str
    tensors: dict[str, Tensor]
    rank: int
    scaling: float
    sha256: str
    """Of the file of the tensors."""
    base: str | None = None
    """Fingerprint of the base model that it was trained in; None where the file, as
    moshi-finetune's, does not say."""

    def require_base(self, fingerprint: str) -> None:
        """Raise UserError where it was trained in another base model than this one."""
        if self.base not in (None, fingerprint):
            raise UserError(
                f"{self.folder}: this LoRA belongs to the base model {self.base}, and this one is "
                f"{fingerprint}; load the base model it was trained with"
            )

    def describe(self) -> dict[str, Any]:
        """What identifies it, for run.json."""
        return {
            "folder": self.folder,
            "rank": self.rank,
            "scaling": self.scaling,
            "linears": sum(key.endswith(PARTS[0]) for key in self.tensors),
            "sha256": self.sha256,
        }


@torch.no_grad()
def fuse_lora(lm: LMModel, stored: StoredLora) -> int:
    """Fuse a LoRA into a base model that has no TTT layers yet.

    Returns:
        Number of Linears whose weights have changed.

    Raises:
        UserError: as `check_lora`; the model is then unchanged.
    """
    pairs, whole = _fitted(lm, stored)
    trained = {name: pair for name, pair in pairs.items() if any(part.any() for part in pair)}
    for name, (down, up) in trained.items():
        fuse_pair(lm.get_submodule(name).get_parameter("weight"), down, up, stored.scaling)
    for name, tensor in whole.items():
        lm.get_parameter(name).copy_(tensor)
    return len(trained)


@torch.no_grad()
def fuse_pair(weight: Tensor, down: Tensor, up: Tensor, scaling: float) -> None:
    """Add scaling * (up @ down) to a weight [out, in], computed in its own type.

    Args:
        down: lora_A [rank, in].
        up: lora_B [out, rank].
    """
    down, up = (each.to(weight) for each in (down, up))
    weight.copy_(weight + scaling * (up @ down))


def check_lora(lm: LMModel, stored: StoredLora) -> None:
    """See that a LoRA fits a base model, which may be on the meta device.

    Raises:
        UserError: tensors that the base has no place for, of other shapes, of another rank than
            the configuration says, or halves of a pair; a base with a LoRA of its own.
    """
    _fitted(lm, stored)


def read_lora(folder: str | Path) -> StoredLora:
    """Read moshi-finetune's folder (a path or URI), or the one above its `consolidated`.

    Raises:
        UserError: files missing or damaged, or a file that holds TTT layers besides.
    """
    inside = storage.join(folder, "consolidated")
    if not has_lora(folder) and has_lora(inside):
        folder = inside
    try:
        content = storage.read_bytes(storage.join(folder, TENSORS))
    except FileNotFoundError as error:
        if storage.exists(storage.join(folder, "consolidated.safetensors")):
            raise UserError(
                f"{folder}: holds a whole model and no {TENSORS}: name it as the base model "
                "(model.weights), not as a LoRA"
            ) from error
        raise UserError(
            f"{folder}: not a folder of moshi-finetune's LoRA, {TENSORS} is missing"
        ) from error
    try:
        config = read_json(storage.join(folder, CONFIG))
        rank, scaling = int(config["lora_rank"]), float(config["lora_scaling"])
        tensors = load(content)
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: {CONFIG} is missing, which says by how much the LoRA counts "
            "(lora_rank, lora_scaling); bring the one that was written beside it"
        ) from error
    except KeyError as error:
        raise UserError(
            f"{folder}: {CONFIG} lacks {error}, which the LoRA was made with"
        ) from error
    except (SafetensorError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: the LoRA cannot be read ({error})") from error
    if found := sorted(key for key in tensors if any(part in key for part in _TTT)):
        raise UserError(
            f"{folder}: {TENSORS} holds TTT layers, too ({len(found)} tensors, the first "
            f"{found[0]}): bring them apart with python -m ray_jobs.import_ttt"
        )
    digest = hashlib.sha256(content).hexdigest()
    return StoredLora(str(folder), tensors, rank, scaling, digest, base_of(content))


def base_of(content: bytes) -> str | None:
    """The fingerprint of the base model that a safetensors file of LoRA names, if it does."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__", {}).get(_BASE)


_BASE = "base_fingerprint"


def has_lora(folder: str | Path) -> bool:
    """Whether a folder holds a file of LoRA."""
    return storage.exists(storage.join(folder, TENSORS))


def linears_with_lora(lm: LMModel) -> list[str]:
    """Names of the Linears of a model that have a low-rank part beside them, of any make."""
    end = ".lora_A"
    return [name.removesuffix(end) for name, _ in lm.named_modules() if name.endswith(end)]


def write_lora(folder: str | Path, stored: StoredLora, config: Mapping[str, Any]) -> None:
    """Write what `read_lora` reads, with the model's `config` beside it."""
    contiguous = {name: tensor.contiguous() for name, tensor in stored.tensors.items()}
    base = None if stored.base is None else {_BASE: stored.base}
    storage.write_bytes(storage.join(folder, TENSORS), save(contiguous, base))
    how = {"lora": True, "lora_rank": stored.rank, "lora_scaling": stored.scaling}
    write_json(storage.join(folder, CONFIG), {**config, **how})


def _fitted(
    lm: LMModel, stored: StoredLora
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """The pairs by their Linear, and the tensors that replace one of the base's."""
    if linears_with_lora(lm):
        raise UserError(
            f"{stored.folder}: the base model has a LoRA of its own already: name a base without"
        )
    given = by_todays_names(lm, stored.tensors)
    linears = {name: m for name, m in lm.named_modules() if isinstance(m, nn.Linear)}
    base = {name: tensor.shape for name, tensor in lm.named_parameters()}
    wanted: dict[str, torch.Size] = {}
    for name, linear in linears.items():
        wanted[f"{name}.{PARTS[0]}"] = torch.Size((stored.rank, linear.in_features))
        wanted[f"{name}.{PARTS[1]}"] = torch.Size((linear.out_features, stored.rank))
    given_pairs = {name: [p for p in PARTS if f"{name}.{p}" in given] for name in linears}
    names = sorted(name for name, parts in given_pairs.items() if parts)
    if not names:
        raise UserError(f"{stored.folder}: {TENSORS} holds no lora_A and lora_B of this base model")
    if alone := [name for name in names if len(given_pairs[name]) < len(PARTS)]:
        raise UserError(
            f"{stored.folder}: {TENSORS} has only one of lora_A and lora_B of {alone[0]}"
        )
    known = {**base, **wanted}
    _refuse(stored, "no place for", [key for key in given if key not in known])
    wrong = {key: tensor for key, tensor in given.items() if tensor.shape != known[key]}
    ranks = {t.shape[0] for key, t in wrong.items() if key.endswith(PARTS[0]) and t.dim() == 2}
    if other := sorted(ranks - {stored.rank}):
        raise UserError(
            f"{stored.folder}: {CONFIG} says lora_rank {stored.rank}, and {TENSORS} has rank "
            f"{', '.join(map(str, other))}: bring the {CONFIG} that was written beside it"
        )
    _refuse(stored, "another shape for", list(wrong))
    pairs = {n: (given[f"{n}.{PARTS[0]}"], given[f"{n}.{PARTS[1]}"]) for n in sorted(names)}
    return pairs, {key: tensor for key, tensor in given.items() if key in base}


def by_todays_names(lm: LMModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Under the names of today's attention, as the published package reads files of before."""
    renamed = dict(tensors)
    for name, module in lm.named_modules():
        if isinstance(module, StreamingMultiheadAttention):
            StreamingMultiheadAttention._load_hook(module, renamed, f"{name}.")
    return renamed


def _refuse(stored: StoredLora, what: str, keys: list[str]) -> None:
    if keys:
        first = min(keys)
        raise UserError(
            f"{stored.folder}: this base model has {what} {len(keys)} tensors of {TENSORS}, the "
            f"first {first}: name the base that the LoRA was trained with"
        )
