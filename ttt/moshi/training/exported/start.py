"""A training that starts from what another one left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from moshi.models.lm import LMModel

from ttt.errors import UserError
from ttt.layers import TTTConfig
from ttt.moshi.lora import has_lora
from ttt.moshi.training.config import MoshiTrainingConfig
from ttt.moshi.training.freeze import insert_trained, layer_config, lora_rank, widen_ttt
from ttt.moshi.training.lora_files import TrainedLoRA, read_trained_lora
from ttt.moshi.ttt_files import StoredTTT, check_ttt, has_ttt, read_ttt


def start_trained(lm: LMModel, config: MoshiTrainingConfig, folder: str | Path) -> None:
    """Put LoRA and TTT layers into a base model as the configuration says, with an export's values.

    The exported form then has the export's losses. What the configuration trains and the export
    does not have is freshly drawn, as `insert_trained` does it.

    Args:
        lm: loaded, the base model that the export was trained in.
        folder: a path or URI, as `save_trained`, `save_ttt` or moshi-finetune left it.

    Raises:
        UserError: files missing or damaged, another base model, or an export that does not fit the
            configuration; the model is then unchanged.
    """
    start = read_start(lm, config, folder)
    insert_trained(lm, config)
    if start.lora is not None:
        start.lora.fill(lm)
    if start.ttt is not None:
        widen_ttt(lm)  # Half precision would round the export.
        lm.load_state_dict(start.ttt.tensors, strict=False)


@dataclass(frozen=True, eq=False)
class Start:
    """What a training starts from."""

    ttt: StoredTTT | None
    lora: TrainedLoRA | None


def read_start(lm: LMModel, config: MoshiTrainingConfig, folder: str | Path) -> Start:
    """Read an export and see that a training of this base model can start from it.

    The model is not changed. Args and errors are those of `start_trained`.
    """
    ttt = read_ttt(folder) if has_ttt(folder) else None
    lora = read_trained_lora(lm, folder) if has_lora(folder) else None
    if ttt is None and lora is None:
        raise UserError(
            f"{folder}: holds neither ttt.json nor lora.safetensors; name the export of a training"
        )
    for name, tensor in {**(ttt.tensors if ttt else {}), **(lora.tensors if lora else {})}.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"{folder}: {name} holds values that are no finite numbers; start from another "
                "checkpoint's export"
            )
    for key, ours, theirs in (*_ttt_keys(lm, config, ttt), *_lora_keys(lm, config, lora)):
        if ours != theirs:
            raise UserError(
                f"{folder}: {key} is {_shown(theirs)} there, and {_shown(ours)} in this "
                f"configuration: set {key} to the export's, or start from the base model"
            )
    if ttt is not None:
        check_ttt(lm, ttt)
    return Start(ttt, lora)


def _ttt_keys(
    lm: LMModel, config: MoshiTrainingConfig, stored: StoredTTT | None
) -> Iterator[tuple[str, Any, Any]]:
    """Key, what the configuration says, what the export has."""
    if stored is None:
        return
    if config.ttt is None:
        yield "ttt", None, f"{stored.config.kind} in layers {stored.layers}"
        return
    yield "ttt.layers", sorted(config.ttt.layers), sorted(stored.layers)
    shape = layer_config(lm, config.ttt)
    for field in fields(TTTConfig):
        if field.name not in ("dim", "checkpoint_mini_batches"):
            yield (
                f"ttt.{field.name}",
                getattr(shape, field.name),
                getattr(stored.config, field.name),
            )
    context = lm.context  # What null stands for.
    ours, theirs = config.ttt.attention_context or context, stored.context or context
    yield "ttt.attention_context", ours, theirs


def _lora_keys(
    lm: LMModel, config: MoshiTrainingConfig, stored: TrainedLoRA | None
) -> Iterator[tuple[str, Any, Any]]:
    if stored is None:
        return
    if config.lora is None:
        yield "lora", None, f"rank {stored.rank} in {', '.join(stored.targets)}"
        return
    yield "lora.rank", lora_rank(lm, config.lora), stored.rank
    yield "lora.scaling", config.lora.scaling, stored.scaling
    yield "lora.targets", sorted(config.lora.targets), sorted(stored.targets)


def _shown(value: object) -> str:
    return "null" if value is None else str(value)
