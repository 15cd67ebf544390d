"""A model in training as others will hear it: as its export loads, or as the base model alone.

What is trained computes in other ways than its export will: LoRA stands beside the weights that it
will be fused into, and TTT layers keep more digits than a model in half precision does. A
validation is to find what an evaluation of the export would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from moshi.models.lm import LMModel
from moshi.modules.streaming import StreamingModule
from torch import Tensor, nn

from ttt.moshi.insert import StreamingTTT, take_out_ttt, temporal_layers, ttt_layers, unset_ttt
from ttt.moshi.lora import fuse_pair
from ttt.moshi.training.lora import lora_linears, take_out_lora


@contextmanager
def exported_form(lm: LMModel) -> Iterator[None]:
    """Inside, the model is the one that loads from its export: the same losses, bit for bit.

    LoRA is fused as `ttt.moshi.lora.fuse_lora` does it, and TTT layers are in the precision that
    `load_ttt` gives them. Takes room for the weights of all Linears with LoRA and for the TTT
    layers once more. The model is as before afterwards, bit for bit, also after an error.

    Raises RuntimeError while the model streams.
    """
    linears = list(lora_linears(lm).values())
    with _as_before(lm, [linear.weight for linear in linears]):
        for linear in linears:
            pair = linear.lora_A.weight, linear.lora_B.weight
            fuse_pair(linear.weight, *pair, linear.scaling)
        take_out_lora(lm)
        for index, trained in ttt_layers(lm).items():
            temporal_layers(lm)[index].add_module("ttt", _as_loaded(lm, trained))
        _as_nobody_trains(lm)
        yield


@contextmanager
def base_form(lm: LMModel) -> Iterator[None]:
    """Inside, the model is the base alone: no LoRA, no TTT layers, attention as it was loaded.

    The model is as before afterwards, bit for bit. Raises RuntimeError while the model streams.
    """
    with _as_before(lm, []):
        take_out_lora(lm)
        take_out_ttt(lm)
        _as_nobody_trains(lm)
        yield


def _as_loaded(lm: LMModel, trained: StreamingTTT) -> StreamingTTT:
    """A copy of a TTT layer such as `load_ttt` makes of its file."""
    made = unset_ttt(lm, trained.layer.config).train(trained.training)
    made.load_state_dict(trained.state_dict())
    return made


def _as_nobody_trains(lm: LMModel) -> None:
    """As a model is after loading. What is frozen lets PyTorch choose other products."""
    lm.requires_grad_(True)
    for part in _streaming_parts(lm):
        part._cached_children = None  # Listed at the first start of streaming, and others now.


@contextmanager
def _as_before(lm: LMModel, weights: Sequence[Tensor]) -> Iterator[None]:
    """Classes, children and attributes of all modules are afterwards what they were, and so are
    what parameters want gradients and the values of `weights`."""
    if any(part.is_streaming for part in _streaming_parts(lm)):
        raise RuntimeError("a model that is streaming cannot take another form")
    modules = [(each, type(each), _contents(each)) for each in lm.modules()]
    trained = [(each, each.requires_grad) for each in lm.parameters()]
    values = [each.detach().clone() for each in weights]
    try:
        yield
    finally:
        for module, kind, contents in modules:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(contents)
        for parameter, wants in trained:
            parameter.requires_grad_(wants)
        with torch.no_grad():
            for weight, value in zip(weights, values, strict=True):
                weight.copy_(value)


def _contents(module: nn.Module) -> dict[str, object]:
    """A module's attributes, children among them."""
    return {**vars(module), "_modules": dict(module._modules)}


def _streaming_parts(lm: LMModel) -> list[StreamingModule]:
    return [module for module in lm.modules() if isinstance(module, StreamingModule)]
