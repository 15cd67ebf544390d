"""Which parameters of a Moshi are trained: what was inserted, and nothing of the model itself."""

from __future__ import annotations

import torch
from moshi.models.lm import LMModel
from torch import nn

from ttt.errors import UserError
from ttt.moshi.insert import ttt_layers
from ttt.moshi.training.config import GROUPS, Group

TrainedParameters = dict[Group, dict[str, nn.Parameter]]
"""Group -> name in the model -> parameter."""


def freeze_base(lm: LMModel) -> TrainedParameters:
    """Freeze the model but for its TTT layers and LoRA, and return those, in float32 or finer.

    The groups are `ttt` (all of a TTT layer but its gate), `gate` (its alpha) and `lora`; one that
    has no parameters is not there. TTT layers of a model in half precision become float32 here:
    a small step would be rounded away in bfloat16. They still compute in the model's type.

    Raises:
        UserError: the model has neither TTT layers nor LoRA.
    """
    lm.requires_grad_(False)
    for layer in ttt_layers(lm).values():
        if layer.alpha.dtype in (torch.bfloat16, torch.float16):
            layer.float()
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


def _group(name: str) -> Group | None:
    if ".lora_" in name:
        return "lora"
    if ".ttt." in name:
        return "gate" if name.endswith(".ttt.alpha") else "ttt"
    return None
