"""Training within little memory: what is not kept in the forward pass is computed anew.

Layers keep their inputs alone. A TTT layer hears a group of mini-batches at a time and keeps what
it had learnt between two groups. Where both are asked for, a layer with TTT is three pieces
(attention, TTT by groups, feed-forward block), not one around the others: what lies in two
checkpoints would be computed three times, and what TTT learns is the slowest part of a layer.

Classes of the model's own layers are exchanged for the time inside `sparing`; nothing is copied.

Shapes: B windows, T frames, D width of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar, cast

import torch
from moshi.models.lm import LMModel
from moshi.modules.transformer import StreamingTransformerLayer
from moshi.utils.compile import no_compile
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ttt.layers import TTTLayer, TTTState
from ttt.moshi.insert import TTTTransformerLayer, temporal_layers, ttt_layers
from ttt.moshi.training.attention import set_attention_block
from ttt.moshi.training.config import MemoryConfig

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@contextmanager
def sparing(lm: LMModel, memory: MemoryConfig, frames: int) -> Iterator[None]:
    """Inside, windows of `frames` frames are trained within the memory asked for.

    Nothing is compiled inside, forward or backward: compiled functions would be called with other
    shapes in the backward pass of what is computed anew. The model is as before afterwards.
    """
    learning = [each.layer for each in ttt_layers(lm).values()]
    parts: list[nn.Module] = [*temporal_layers(lm), *learning]
    classes = [type(part) for part in parts]
    try:
        set_attention_block(lm, memory.attention_block or lm.context)
        if memory.checkpoint_mini_batches:
            for layer in learning:
                layer.__class__ = _GroupedTTTLayer
                assert isinstance(layer, _GroupedTTTLayer)
                layer.group = group_frames(layer.config.mini_batch_size, memory, frames)
        for layer in temporal_layers(lm) if memory.checkpoint_layers else ():
            with_ttt = isinstance(layer, TTTTransformerLayer)
            in_pieces = _InPieces if memory.checkpoint_mini_batches else _WholeWithTTT
            layer.__class__ = in_pieces if with_ttt else _Whole
        with no_compile():
            yield
    finally:
        set_attention_block(lm, None)
        for part, before in zip(parts, classes, strict=True):
            vars(part).pop("group", None)
            part.__class__ = before


def mini_batches_per_checkpoint(frames: int, mini_batch_size: int) -> int:
    """How many mini-batches are best computed anew together: about the square root of all.

    Then as many are kept at once as there are states between groups. 8 to 32 mini-batches of 16
    are alike; groups of fewer frames cost more states than they save.
    """
    fewest = math.ceil(_FEWEST_FRAMES / mini_batch_size)
    return max(fewest, round(math.sqrt(frames / mini_batch_size)))


_FEWEST_FRAMES = 128


class _GroupedTTTLayer(TTTLayer):
    """A TTT layer that keeps of a group of frames what was learnt before it."""

    group: int
    """Frames that are computed anew together, whole mini-batches."""

    def forward(self, x: Tensor, state: TTTState) -> tuple[Tensor, TTTState]:
        if not torch.is_grad_enabled():
            return super().forward(x, state)
        answers, hear = [], super().forward
        for piece in x.split(self.group, dim=1):
            answer, state = _anew(hear, piece, state)
            answers.append(answer)
        return torch.cat(answers, dim=1), state


class _Whole(StreamingTransformerLayer):
    """A layer that is computed anew as one."""

    def forward(self, x: Tensor, cross_attention_src: Tensor | None = None) -> Tensor:
        return _anew(super().forward, x, cross_attention_src)


class _WholeWithTTT(TTTTransformerLayer):
    """The same of a layer with TTT, which keeps its mini-batches while they are needed."""

    def forward(self, x: Tensor, cross_attention_src: Tensor | None = None) -> Tensor:
        return _anew(super().forward, x, cross_attention_src)


class _InPieces(TTTTransformerLayer):
    """A layer whose attention and feed-forward block are computed anew; its TTT does so itself."""

    def forward(self, x: Tensor, cross_attention_src: Tensor | None = None) -> Tensor:
        assert cross_attention_src is None, "training refuses models with conditions"
        attended = _anew(super(TTTTransformerLayer, self)._sa_block, x)
        return _anew(self._ff_block, self.ttt(attended))


def _anew(
    function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """The function's result; what it keeps is computed anew in the backward pass."""
    made = checkpoint(
        function,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing is drawn
        **kwargs,
    )
    return cast(Result, made)


def group_frames(mini_batch_size: int, memory: MemoryConfig, frames: int) -> int:
    """Frames of a group of mini-batches."""
    asked = memory.checkpoint_mini_batches
    if asked == "auto":
        asked = mini_batches_per_checkpoint(frames, mini_batch_size)
    return asked * mini_batch_size
