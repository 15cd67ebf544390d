"""TTT layers on disk: their tensors, how to insert them, and which base model they belong to.

A folder holds `ttt.safetensors` (keys as in the model, `transformer.layers.3.ttt...`) and
`ttt.json` (the arguments of `insert_ttt` and the base model's fingerprint). Nothing of the base
model is kept. A LoRA that was trained together with the layers lies beside them, in the two files
of `ttt.moshi.lora`; the fingerprint is then that of the base without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from moshi.models.lm import LMModel
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ttt import storage
from ttt.errors import UserError
from ttt.layers import TTTConfig
from ttt.moshi import lora
from ttt.moshi.insert import StreamingTTT, insert_unset_ttt, temporal_layers, ttt_layers
from ttt.moshi.lora import StoredLora, check_lora, fuse_lora, has_lora, read_lora, write_lora
from ttt.records import read_json, write_json

_TENSORS, _DESCRIPTION = "ttt.safetensors", "ttt.json"
_FORMAT = 1
_SAMPLES_PER_TENSOR = 4096


LoraBeside = tuple[StoredLora, Mapping[str, Any]]
"""A LoRA that was trained together with the layers, and the base model's arguments."""


def save_ttt(lm: LMModel, folder: str | Path, *, beside: LoraBeside | None = None) -> None:
    """Write the model's TTT layers to `folder` (a path or URI), and a LoRA beside them.

    What else training left there before is gone.

    Raises:
        UserError: the model has no TTT layers.
    """
    layers = ttt_layers(lm)
    if not layers:
        raise UserError("this model has no TTT layers to save")
    context = temporal_layers(lm)[next(iter(layers))].self_attn.context
    write_ttt(
        folder,
        {k: tensor for k, tensor in lm.state_dict().items() if _is_ttt(k)},
        list(layers),
        next(iter(layers.values())).layer.config,
        attention_context=None if context == lm.context else context,
        fingerprint=base_fingerprint(lm),
        beside=beside,
    )


def write_ttt(
    folder: str | Path,
    tensors: Mapping[str, Tensor],
    layers: Sequence[int],
    config: TTTConfig,
    *,
    attention_context: int | None,
    fingerprint: str | None,
    beside: LoraBeside | None = None,
) -> None:
    """Write what `load_ttt` reads; a folder that has all of it has ttt.json.

    Args:
        tensors: all that `insert_ttt` adds, under the names that they have in the model.
        fingerprint: of the base model (`base_fingerprint`); None where it is not known, and then
            no base is refused whose shapes fit.
        beside: the LoRA that belongs to the layers; one that lay there before is gone.
    """
    description = {
        "format": _FORMAT,
        "layers": list(layers),
        "config": config.stored(),
        "attention_context": attention_context,
        "base_fingerprint": fingerprint,
    }
    clear_trained(folder)
    if beside is not None:
        write_lora(folder, *beside)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    storage.write_bytes(storage.join(folder, _TENSORS), save(contiguous))
    write_json(storage.join(folder, _DESCRIPTION), description)


def clear_trained(folder: str | Path) -> None:
    """Delete the TTT layers and the LoRA of a folder, first what says that they are whole.

    A config.json goes with its LoRA alone: without one it may be a model's.
    """
    names = [_DESCRIPTION, _TENSORS]
    if has_lora(folder):
        names += [lora.TENSORS, lora.CONFIG]
    for name in names:
        storage.delete(storage.join(folder, name))


def load_ttt(lm: LMModel, folder: str | Path, *, base: str | None = None) -> int:
    """Insert the TTT layers that `save_ttt` wrote into the base model they were trained with.

    A LoRA beside them is fused into the base first.

    Args:
        base: the model's fingerprint before a LoRA was fused into it, where there was one: layers
            of the base with or without that LoRA are taken.

    Returns:
        Number of layers changed.

    Raises:
        UserError: files missing or damaged, another base model, or a model that does not fit.
    """
    stored = read_ttt(folder)
    check_ttt(lm, stored, base=base)
    if stored.lora is not None:
        check_lora(lm, stored.lora)  # Of whose base the layers' fingerprint speaks.
    changed = insert_unset_ttt(lm, stored.layers, stored.config, stored.context)
    lm.load_state_dict(stored.tensors, strict=False)
    if stored.lora is not None:
        fuse_lora(lm, stored.lora)
    return changed


def check_ttt(lm: LMModel, stored: StoredTTT, *, base: str | None = None) -> None:
    """See that TTT layers are of this base model and whole; the arguments are `load_ttt`'s.

    Raises:
        UserError: another base model, or tensors that are not those of the description.
    """
    fingerprint = base_fingerprint(lm)
    if stored.fingerprint not in (None, fingerprint, base):
        raise UserError(
            f"{stored.folder}: these TTT layers belong to the base model {stored.fingerprint}, and "
            f"this one is {fingerprint}; load the base model they were trained with"
        )
    wanted = ttt_shapes(stored.layers, stored.config)
    given = {key: tensor.shape for key, tensor in stored.tensors.items()}
    if wrong := sorted(key for key in wanted | given if wanted.get(key) != given.get(key)):
        raise UserError(
            f"{stored.folder}: {_TENSORS} does not fit {_DESCRIPTION} in {len(wrong)} tensors, the "
            f"first {wrong[0]}; write the folder anew with save_ttt"
        )


def outline_ttt(lm: LMModel, folder: str | Path) -> int:
    """Insert layers of the shape in `folder` without looking whose they are: for `outline_moshi`.

    Returns and raises what `load_ttt` does.
    """
    stored = read_ttt(folder)
    if stored.lora is not None:
        check_lora(lm, stored.lora)
    return insert_unset_ttt(lm, stored.layers, stored.config, stored.context)


def describe_ttt(folder: str | Path) -> dict[str, Any]:
    """What identifies the layers that `save_ttt` wrote: layers, configuration, hash of the tensors.

    Raises:
        UserError: files missing or damaged.
    """
    stored = read_ttt(folder)
    beside = {} if stored.lora is None else {"lora": stored.lora.describe()}
    return {
        "layers": stored.layers,
        **stored.config.stored(),
        "attention_context": stored.context,
        "sha256": hashlib.sha256(stored.content).hexdigest(),
        **beside,
    }


def base_fingerprint(lm: LMModel) -> str:
    """Sixteen hex digits that tell one base model from another, with or without TTT layers or LoRA.

    From the names and shapes of all tensors and up to 4,096 evenly spaced values of each, rounded
    to bfloat16: the same for a bfloat16 checkpoint loaded as float32, and quick for 7 billion.
    """
    tensors = lm.state_dict().items()
    return fingerprint_of({k: t for k, t in tensors if not _is_ttt(k) and ".lora_" not in k})


def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """`base_fingerprint` of a base model's tensors."""
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        count = min(tensor.numel(), _SAMPLES_PER_TENSOR)
        places = torch.arange(count, device=tensor.device) * tensor.numel() // count
        values = tensor.flatten()[places].to(torch.bfloat16).float()
        digest.update(f"{key} {tuple(tensor.shape)}".encode() + values.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def ttt_shapes(layers: Sequence[int], config: TTTConfig) -> dict[str, torch.Size]:
    """Name and shape of every tensor that `insert_ttt` would add."""
    with torch.device("meta"):
        tensors = StreamingTTT(config).state_dict()
    return {
        f"transformer.layers.{index}.ttt.{name}": tensor.shape
        for index in layers
        for name, tensor in tensors.items()
    }


def _is_ttt(key: str) -> bool:
    return ".ttt." in key


def has_ttt(folder: str | Path) -> bool:
    """Whether a folder holds TTT layers that were written to the end."""
    return storage.exists(storage.join(folder, _DESCRIPTION))


@dataclass(frozen=True, eq=False)
class StoredTTT:
    """What a folder holds."""

    folder: str
    tensors: dict[str, Tensor]
    content: bytes
    """The file of the tensors."""
    layers: list[int]
    config: TTTConfig
    context: int | None
    """Frames that attention of these layers reaches back; None: as the base model's."""
    fingerprint: str | None
    """Of the base model without LoRA; None: not known."""
    lora: StoredLora | None
    """Trained together with the layers."""


def read_ttt(folder: str | Path) -> StoredTTT:
    """Read what `write_ttt` wrote. Raises UserError when files are missing or damaged."""
    try:
        description = read_json(storage.join(folder, _DESCRIPTION))
        content = storage.read_bytes(storage.join(folder, _TENSORS))
        if description["format"] != _FORMAT:
            raise ValueError(f"format {description['format']} is not {_FORMAT}")
        return StoredTTT(
            str(folder),
            load(content),
            content,
            [int(index) for index in description["layers"]],
            TTTConfig(**description["config"]),
            description["attention_context"],
            description["base_fingerprint"],
            read_lora(folder) if has_lora(folder) else None,
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: not a folder of TTT layers, {_DESCRIPTION} or {_TENSORS} is missing"
        ) from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: the TTT layers cannot be read ({error})") from error
