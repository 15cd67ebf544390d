"""The numbers of a model in training that bytes and arithmetic are summed from.

Shapes: D width of the model, H heads, Q codebooks of a voice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from moshi.models.lm import LMModel
from moshi.modules.gating import ActivationGating
from moshi.modules.transformer import RMSNorm, StreamingTransformerLayer
from torch import nn

from ttt.errors import UserError
from ttt.layers import TTTLayer
from ttt.moshi.insert import StreamingTTT, temporal_layers
from ttt.moshi.training.config import LORA_TARGETS, LoRATarget, MoshiTrainingConfig
from ttt.moshi.training.freeze import layer_config, lora_rank
from ttt.moshi.training.lora import lora_parameters, targeted


@dataclass(frozen=True)
class Sizes:
    """Of a model and what is trained in it."""

    dtype: torch.dtype
    dim: int
    layers: int
    heads: int
    hidden: int
    """Width between the two maps of a temporal layer's feed-forward block."""
    norm_bytes: int
    """That a norm keeps of each value."""
    context: int | None
    base_bytes: int
    matrices: LayerMatrices
    depformer: DepformerSizes
    ttt_layers: tuple[int, ...]
    ttt: TTTSizes | None
    lora_rank: int
    """0 without LoRA."""
    lora_targets: tuple[LoRATarget, ...]
    lora_parameters: int
    fused_bytes: int
    """Of the base's weights that LoRA goes into."""

    @classmethod
    def of(cls, lm: LMModel, config: MoshiTrainingConfig) -> Sizes:
        """Raises UserError where what is to be trained does not fit the model, or is not summed
        yet."""
        layer = temporal_layers(lm)[0]
        gating = cast(nn.Module | None, layer.gating)
        rank = 0 if config.lora is None else lora_rank(lm, config.lora)
        targets = LORA_TARGETS if config.lora is None else config.lora.targets
        return cls(
            dtype=lm.dtype,
            dim=lm.dim,
            layers=len(temporal_layers(lm)),
            heads=layer.self_attn.num_heads,
            hidden=_hidden(gating, lm.dim),
            norm_bytes=_norm_bytes(layer.norm1, lm.dtype),
            context=lm.context,
            base_bytes=sum(each.nbytes for each in (*lm.parameters(), *lm.buffers())),
            matrices=LayerMatrices.of(layer),
            depformer=DepformerSizes.of(lm),
            ttt_layers=() if config.ttt is None else tuple(sorted(config.ttt.layers)),
            ttt=TTTSizes.of(lm, config),
            lora_rank=rank,
            lora_targets=targets,
            lora_parameters=lora_parameters(lm, rank, targets) if rank else 0,
            fused_bytes=sum(each.weight.nbytes for each in targeted(lm, targets)) if rank else 0,
        )

    @property
    def first_layer(self) -> int:
        """The first layer through which a gradient runs."""
        return 0 if self.lora_rank else self.ttt_layers[0]

    @property
    def trained_bytes(self) -> int:
        """Of what is trained, in its own precision."""
        ttt = 0 if self.ttt is None else len(self.ttt_layers) * self.ttt.bytes
        return ttt + self.lora_parameters * self.exact

    @property
    def exact(self) -> int:
        """Bytes of a value of what is trained."""
        return max(4, self.dtype.itemsize)


@dataclass(frozen=True)
class LayerMatrices:
    """Values of a temporal layer's matrices."""

    attention_in: int
    attention_out: int
    block_in: int
    """Of the feed-forward block, as the next one."""
    block_out: int

    @classmethod
    def of(cls, layer: StreamingTransformerLayer) -> LayerMatrices:
        attention, block = layer.self_attn, cast(nn.Module, layer.gating or layer)
        names = ("linear_in", "linear_out") if layer.gating else ("linear1", "linear2")
        return cls(
            _linear_parameters(attention.in_projs),
            _linear_parameters(attention.out_projs),
            *(_linear_parameters(block.get_submodule(name)) for name in names),
        )


@dataclass(frozen=True)
class DepformerSizes:
    """Of the depformer and its heads."""

    codebooks: int
    layers: int
    heads: int
    width: int
    hidden: int
    card: int
    norm_bytes: int
    has_last_norms: bool
    parameters: int
    """Values of all matrices that a step is multiplied with, inputs and heads counted."""

    @classmethod
    def of(cls, lm: LMModel) -> DepformerSizes:
        assert lm.depformer is not None  # Training refuses a model without.
        layers = [cast(StreamingTransformerLayer, layer) for layer in lm.depformer.layers]
        first, blocks = layers[0], cast(nn.Module | None, layers[0].gating)
        gating = blocks[0] if isinstance(blocks, nn.ModuleList) else blocks
        width = cast(nn.Linear, lm.linears[0]).in_features
        # Each codebook has Linears of its own, and all codebooks are predicted in every step.
        parts = (*layers, lm.depformer_in, lm.linears)
        return cls(
            codebooks=lm.dep_q,
            layers=len(layers),
            heads=first.self_attn.num_heads,
            width=width,
            hidden=_hidden(gating, width),
            card=lm.card,
            norm_bytes=_norm_bytes(first.norm1, lm.dtype),
            has_last_norms=not isinstance(lm.depformer_norms[0], nn.Identity),
            parameters=sum(_linear_parameters(each) for each in parts),
        )


@dataclass(frozen=True)
class TTTSizes:
    """Of one TTT layer."""

    bytes: int
    """Of its parameters."""
    matrices: int
    """Values of its projections."""
    heads: int
    dim: int
    inner: int
    """Values between the small models' maps, over all heads; 0 for one map."""
    maps: int
    weights_bytes: int
    """Of the small models' weights, for one stream."""
    weights: int
    """Values of the small models' matrices."""
    first_weights: int
    """Values of their first matrices."""
    mini_batch: int
    standardises: bool
    """Whether queries, keys and targets are brought to a length first."""

    @classmethod
    def of(cls, lm: LMModel, config: MoshiTrainingConfig) -> TTTSizes | None:
        if config.ttt is None:
            return None
        shape = layer_config(lm, config.ttt)
        if shape.flavour == "lact":
            raise UserError("what training layers of flavour lact takes is not summed yet")
        with torch.device("meta"):
            whole = StreamingTTT(shape).to(lm.dtype)
        exact = max(4, lm.dtype.itemsize)
        matrices = list(_named(whole.layer, "W"))
        return cls(
            bytes=sum(each.numel() for each in whole.parameters()) * exact,
            matrices=_linear_parameters(whole.layer),
            heads=shape.num_heads,
            dim=shape.dim,
            inner=sum(each.shape[0] * each.shape[2] for each in matrices[:-1]),
            maps=len(matrices),
            weights_bytes=exact
            * sum(each.numel() for each in (*matrices, *_named(whole.layer, "b"))),
            weights=sum(each.numel() for each in matrices),
            first_weights=matrices[0].numel(),
            mini_batch=shape.mini_batch_size,
            standardises=shape.flavour == "video_dit",
        )


def _named(layer: TTTLayer, letter: str) -> Iterator[nn.Parameter]:
    """W1, W2, ... or b1, b2, ..."""
    for name, parameter in layer.named_parameters(recurse=False):
        if name[0] == letter and name[1:].isdigit():
            yield parameter


def _linear_parameters(module: nn.Module) -> int:
    return sum(each.weight.numel() for each in module.modules() if isinstance(each, nn.Linear))


def _hidden(gating: nn.Module | None, width: int) -> int:
    return gating.linear_out.in_features if isinstance(gating, ActivationGating) else 4 * width


def _norm_bytes(norm: nn.Module, dtype: torch.dtype) -> int:
    """Of each value: what comes in, and what it is multiplied with, where this is no kernel."""
    if not isinstance(norm, RMSNorm):
        return dtype.itemsize
    return 2 * (norm.dtype or dtype).itemsize
