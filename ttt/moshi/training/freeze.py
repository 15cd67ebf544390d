"""Which parameters of a Moshi are trained: what is inserted, and nothing of the model itself."""

from __future__ import annotations

import torch
from moshi.models.lm import LMModel
from torch import nn

from ttt.errors import UserError
from ttt.layers import TTTConfig
from ttt.moshi.insert import (
    StreamingTTT,
    insert_ttt,
    insert_unset_ttt,
    temporal_layers,
    ttt_layers,
)
from ttt.moshi.lora import linears_with_lora
from ttt.moshi.training.config import (
    GROUPS,
    MATCHED_WITHIN_PERCENT,
    Group,
    LoRAConfig,
    MoshiTrainingConfig,
    TTTLayersConfig,
)
from ttt.moshi.training.lora import (
    insert_lora,
    insert_unset_lora,
    lora_parameters,
    match_rank,
)

TrainedParameters = dict[Group, dict[str, nn.Parameter]]
"""Group -> name in the model -> parameter."""


def insert_trained(lm: LMModel, config: MoshiTrainingConfig) -> None:
    """Put freshly drawn LoRA and TTT layers into a base model, as the configuration says.

    A function of the model's shape and of `config.seed`, on every device.

    Raises:
        UserError: what does not fit the model.
    """
    _refuse_lora_inside(lm)
    generator = torch.Generator().manual_seed(config.seed)
    lora, ttt = config.lora, config.ttt
    if lora is not None:
        insert_lora(lm, lora_rank(lm, lora), lora.scaling, lora.targets, generator=generator)
    if ttt is not None:
        shape = layer_config(lm, ttt)
        context = ttt.attention_context
        insert_ttt(lm, ttt.layers, shape, context, gate=ttt.gate, generator=generator)


def insert_unset_trained(lm: LMModel, config: MoshiTrainingConfig) -> None:
    """`insert_trained` without drawing: for whoever sets every parameter right after, or wants
    shapes alone, when the model may be on the meta device."""
    _refuse_lora_inside(lm)
    lora, ttt = config.lora, config.ttt
    if lora is not None:
        insert_unset_lora(lm, lora_rank(lm, lora), lora.scaling, lora.targets)
    if ttt is not None:
        insert_unset_ttt(lm, ttt.layers, layer_config(lm, ttt), ttt.attention_context)


def _refuse_lora_inside(lm: LMModel) -> None:
    if present := linears_with_lora(lm):
        raise UserError(
            f"the base model has a LoRA of its own in {len(present)} Linears, the first "
            f"{present[0]}: name a base without, or fuse it into the weights first"
        )


def layer_config(lm: LMModel, config: TTTLayersConfig) -> TTTConfig:
    """The configuration of the TTT layers in this model. Raises UserError where it does not fit."""
    try:
        return TTTConfig(
            dim=lm.dim,
            num_heads=config.num_heads or temporal_layers(lm)[0].self_attn.num_heads,
            kind=config.kind,
            flavour=config.flavour,
            mini_batch_size=config.mini_batch_size,
            base_lr=config.base_lr,
            rope_theta=config.rope_theta,
            momentum=config.momentum,
        )
    except ValueError as error:
        raise UserError(f"ttt: {error}") from error


def lora_rank(lm: LMModel, config: LoRAConfig) -> int:
    """The rank of the LoRA: as configured, or the one that matches TTT layers in this model."""
    if config.match is None:
        return int(config.rank)
    return match_rank(lm, config.targets, _ttt_parameters(lm, config.match))


def describe_match(lm: LMModel, config: LoRAConfig) -> str | None:
    """How near the control comes to its TTT layers, in a sentence; None without rank: match.

    Args:
        lm: the base model, which may be on the meta device.
    """
    if config.match is None:
        return None
    rank, wanted = lora_rank(lm, config), _ttt_parameters(lm, config.match)
    count = lora_parameters(lm, rank, config.targets)
    percent = 100 * (count - wanted) / wanted
    layers = ", ".join(map(str, config.match.layers))
    sentence = (
        f"lora.rank: match takes rank {rank}: {count:,} parameters, and TTT-{config.match.kind} in "
        f"layers {layers} has {wanted:,} ({percent:+.2f} %)"
    )
    if abs(percent) <= MATCHED_WITHIN_PERCENT:
        return sentence
    return (
        f"{sentence}: more than {MATCHED_WITHIN_PERCENT:g} % apart, so it is no matched control; "
        "fewer lora.targets take smaller steps"
    )


def _ttt_parameters(lm: LMModel, config: TTTLayersConfig) -> int:
    with torch.device("meta"):
        layer = StreamingTTT(layer_config(lm, config))
    return len(config.layers) * sum(parameter.numel() for parameter in layer.parameters())


def freeze_base(lm: LMModel) -> TrainedParameters:
    """Freeze the model but for its TTT layers and LoRA, and return those, in float32 or finer.

    The groups are `ttt` (all of a TTT layer but its gate), `gate` (its alpha) and `lora`; one that
    has no parameters is not there. TTT layers of a model in half precision become float32 here:
    a small step would be rounded away in bfloat16. They still compute in the model's type.

    Raises:
        UserError: the model has neither TTT layers nor LoRA.
    """
    lm.requires_grad_(False)
    widen_ttt(lm)
    found: TrainedParameters = {}
    for group in GROUPS:
        named = {name: each for name, each in lm.named_parameters() if _group(name) == group}
        if named:
            found[group] = named
    if not found:
        raise UserError("nothing is there to be trained: insert TTT layers or LoRA first")
    for named in found.values():
        for parameter in named.values():
            parameter.requires_grad_(True)
    return found


def widen_ttt(lm: LMModel) -> None:
    """Make TTT layers of half precision float32, as they are trained."""
    for layer in ttt_layers(lm).values():
        if layer.alpha.dtype in (torch.bfloat16, torch.float16):
            layer.float()


def _group(name: str) -> Group | None:
    if ".lora_" in name:
        return "lora"
    if ".ttt." in name:
        return "gate" if name.endswith(".ttt.alpha") else "ttt"
    return None
