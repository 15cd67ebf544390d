"""TTT layers inside a Moshi `LMModel` of the published package.

A chosen layer of the temporal transformer becomes

    attention -> x + tanh(alpha) * TTT(x) -> feed-forward

with alpha learnt per channel. The layer object stays the model's own: its class is exchanged for a
subclass and a child `ttt` is added, so every key of the base model keeps its name. What the TTT
layers learn while streaming is part of Moshi's streaming state: it begins with `lm.streaming()`,
ends with it and is reset with it.

Shapes: B streams, T frames, D width of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from moshi.models.lm import LMModel
from moshi.modules.streaming import State, StreamingModule
from moshi.modules.transformer import StreamingTransformerLayer
from torch import Tensor, nn

from ttt.errors import UserError
from ttt.layers import TTTConfig, TTTLayer, TTTState


def insert_ttt(
    lm: LMModel,
    layers: Sequence[int],
    config: TTTConfig,
    attention_context: int | None = None,
    *,
    gate: float = 0.1,
    generator: torch.Generator | None = None,
) -> int:
    """Put freshly drawn TTT layers into `layers` of the model's temporal transformer.

    Args:
        lm: loaded, and not streamed yet.
        layers: which layers, counted from 0.
        config: the same for all of them; its dim is the model's.
        attention_context: frames that the attention of these layers reaches back from now on;
            None leaves it as it is.
        gate: where alpha starts; 0 leaves the model's output as it was.
        generator: draws the parameters; None is torch's own.

    Returns:
        Number of layers changed.

    Raises:
        UserError: the layers, the width or the model do not fit; the model is then unchanged.
    """
    return _insert(
        lm,
        list(layers),
        config,
        attention_context,
        lambda: StreamingTTT(config, gate, generator).to(lm.device, lm.dtype),
    )


def insert_unset_ttt(
    lm: LMModel, layers: Sequence[int], config: TTTConfig, attention_context: int | None = None
) -> int:
    """`insert_ttt` without drawing: for whoever sets every parameter right after."""
    return _insert(lm, list(layers), config, attention_context, lambda: unset_ttt(lm, config))


def unset_ttt(lm: LMModel, config: TTTConfig) -> StreamingTTT:
    """A TTT layer in the model's precision whose parameters are still to be set; not inserted."""
    with torch.device("meta"):
        shapes = StreamingTTT(config)
    return shapes.to(lm.dtype).to_empty(device=lm.device)


def take_out_ttt(lm: LMModel) -> None:
    """Leave the base model as it was loaded: without TTT layers, and never streamed.

    Raises RuntimeError while the model streams.
    """
    parts = _streaming_parts(lm)
    if any(part.is_streaming for part in parts):
        raise RuntimeError("TTT cannot be taken out of a model that is streaming")
    for index in ttt_layers(lm):
        base = temporal_layers(lm)[index]
        del base.ttt
        base.__class__ = StreamingTransformerLayer
        base.self_attn.context = lm.context
    for part in parts:
        part._cached_children = None


def _insert(
    lm: LMModel,
    chosen: list[int],
    config: TTTConfig,
    attention_context: int | None,
    make: Callable[[], StreamingTTT],
) -> int:
    _check_layers(lm, chosen)
    if config.dim != lm.dim:
        raise UserError(f"dim={config.dim} of the TTT layers must be the model's, {lm.dim}")
    if attention_context is not None and attention_context < 1:
        raise UserError(f"attention_context must be 1 or more, not {attention_context}")
    _check_chunk(lm, chosen, config, attention_context)
    for index in chosen:
        base = temporal_layers(lm)[index]
        inserted = make()
        base.__class__ = TTTTransformerLayer
        base.add_module("ttt", inserted.train(base.training))
        if attention_context is not None:
            base.self_attn.context = attention_context
    if list(ttt_layers(lm)) != sorted(chosen):
        raise RuntimeError(f"TTT layers are in {list(ttt_layers(lm))}, not in {sorted(chosen)}")
    return len(chosen)


def temporal_layers(lm: LMModel) -> list[StreamingTransformerLayer]:
    """The layers of the temporal transformer, first to last."""
    return [cast(StreamingTransformerLayer, layer) for layer in lm.transformer.layers]


def attention_window(lm: LMModel) -> int:
    """Frames that the model's attention reaches back: the longest window of a layer."""
    return max(int(layer.self_attn.context or 0) for layer in temporal_layers(lm))


def ttt_layers(lm: LMModel) -> dict[int, StreamingTTT]:
    """The TTT layers of a model by the index of the layer they sit in; empty for a base model."""
    return {
        index: layer.ttt
        for index, layer in enumerate(temporal_layers(lm))
        if isinstance(layer, TTTTransformerLayer)
    }


class StreamingTTT(StreamingModule["_StreamingTTTState"]):
    """x + tanh(alpha) * TTT(x), remembering across calls while the model streams."""

    def __init__(
        self, config: TTTConfig, gate: float = 0.1, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.layer = TTTLayer(config, generator)
        self.alpha = nn.Parameter(torch.full((config.dim,), gate))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]; outside streaming every call starts from nothing heard."""
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "a CUDA graph would freeze the mini-batch it was captured in: use "
                "ttt.moshi.Session, not LMGen, or set NO_CUDA_GRAPH=1"
            )
        streaming = self._streaming_state
        learnt = self.layer.init_state(len(x)) if streaming is None else streaming.learnt
        if x.dtype == self.alpha.dtype:
            y, learnt = self.layer(x, learnt)
        else:  # Trained in float32 inside a model of half precision, and computed as that one is.
            with torch.autocast(x.device.type, x.dtype):
                y, learnt = self.layer(x, learnt)
        if streaming is not None:
            streaming.learnt = learnt
        return x + (torch.tanh(self.alpha) * y).to(x.dtype)

    @property
    def learnt(self) -> TTTState:
        """What the streams have taught this layer; to be set when a stream is resumed."""
        return self._streaming().learnt

    @learnt.setter
    def learnt(self, learnt: TTTState) -> None:
        self._streaming().learnt = learnt

    def mark(self) -> None:
        """From here on, frames can be taken back."""
        self.learnt = self.learnt.mark()

    def rollback(self, frames: int) -> None:
        """Forget the last frames, exactly; not beyond the mark."""
        self.learnt = self.layer.rollback(self.learnt, frames)

    def _streaming(self) -> _StreamingTTTState:
        if self._streaming_state is None:
            raise RuntimeError("this TTT layer is not streaming: enter lm.streaming(batch) first")
        return self._streaming_state

    def _init_streaming_state(self, batch_size: int) -> _StreamingTTTState:
        return _StreamingTTTState(
            batch_size, self.alpha.device, self.layer, self.layer.init_state(batch_size)
        )


class TTTTransformerLayer(StreamingTransformerLayer):
    """Moshi's layer with TTT between attention and feed-forward; made by `insert_ttt` only."""

    ttt: StreamingTTT

    def _sa_block(self, x: Tensor) -> Tensor:
        return self.ttt(super()._sa_block(x))


@dataclass
class _StreamingTTTState(State):
    layer: TTTLayer
    learnt: TTTState

    def reset(self, reset_mask: Tensor) -> None:
        super().reset(reset_mask)
        self.learnt = self.layer.reset(self.learnt, reset_mask)

    def set_exec_mask(self, exec_mask: Tensor) -> None:
        if not exec_mask.all():
            raise NotImplementedError("streams with TTT layers cannot pause one by one")
        super().set_exec_mask(exec_mask)


def _check_layers(lm: LMModel, chosen: list[int]) -> None:
    count = len(temporal_layers(lm))
    if not chosen:
        raise UserError("no layers were named for TTT; leave TTT out to evaluate the base model")
    if outside := [index for index in chosen if not 0 <= index < count]:
        raise UserError(
            f"layers {outside} do not fit: this model has {count} layers, 0 to {count - 1}"
        )
    if repeated := sorted({index for index in chosen if chosen.count(index) > 1}):
        raise UserError(f"layers {repeated} are named more than once")
    if present := list(ttt_layers(lm)):
        raise UserError(f"this model has TTT in layers {present} already; load the base anew")
    # Moshi lists a module's streaming children once, at the first start of streaming.
    parts = _streaming_parts(lm)
    if any(part.is_streaming or part._cached_children is not None for part in parts):
        raise UserError("this model has streamed already: insert TTT before it first streams")


def _check_chunk(
    lm: LMModel, chosen: list[int], config: TTTConfig, attention_context: int | None
) -> None:
    if config.flavour != "lact":
        return
    layers = enumerate(temporal_layers(lm))
    contexts = [
        (index in chosen and attention_context) or layer.self_attn.context
        for index, layer in layers
    ]
    reach = max(int(context or config.mini_batch_size) for context in contexts)
    if config.mini_batch_size > reach:
        raise UserError(
            f"mini_batch_size={config.mini_batch_size} of lact layers must be at most the {reach} "
            "frames that attention reaches back: in a longer chunk there would be frames that "
            "attention has lost and the fast weights have not seen yet"
        )


def _streaming_parts(lm: LMModel) -> list[StreamingModule[Any]]:
    return [module for module in lm.modules() if isinstance(module, StreamingModule)]
