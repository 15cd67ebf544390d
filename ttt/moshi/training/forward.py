"""Moshi over whole windows, as it is trained: the NLL of every code, with gradients.

One pass hears all frames, not a chunk at a time: the same columns, targets and heads as the
streaming evaluation, and the same numbers. What a window takes is kept small by `sparing`:
attention in blocks of queries, activations of layers and of groups of mini-batches computed anew in
the backward pass, depformer and loss in blocks of steps.

Forward and backward belong inside `sparing`, both: what is computed anew must take the way that
it took before.

Shapes: B windows, K tokens per column, Q codebooks of a voice, T frames, S steps, D width of the
model.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from moshi.models.lm import LMModel
from moshi.utils.compile import no_compile
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ttt.errors import UserError
from ttt.moshi.insert import ttt_layers
from ttt.moshi.streaming.delays import Delays
from ttt.moshi.streaming.evaluate import negative_log_likelihood
from ttt.moshi.streaming.heads import audio_logits
from ttt.moshi.streaming.streams import Streams
from ttt.moshi.training.attention import set_attention_block
from ttt.moshi.training.config import MemoryConfig


def training_nll(lm: LMModel, streams: Streams, *, head_block: int | None = None) -> Tensor:
    """The NLL of every code of the windows, as `evaluate_codes` gives it, with gradients.

    Args:
        lm: not streaming.
        streams: the windows and what stands beside them; their text is given, pad or masked.
        head_block: steps that the depformer takes at once, which are computed anew in the backward
            pass; None takes all at once and keeps everything.

    Returns:
        [B, Q, T] nats, float32 (float64 in a float64 model); NaN after a window's end.

    Raises:
        UserError: the model is to choose its own text, needs conditions or streams already.
    """
    _check(lm, streams)
    delays = Delays.of(lm)
    steps = delays.steps(streams.frames)
    tokens = torch.cat([streams.text(0, steps)[:, None], streams.audio(0, steps)], dim=1)
    columns = delays.columns(tokens, 0, steps + 1)
    hidden, forced = _hidden(lm, columns[:, :, :-1]), columns[:, :, 1:]
    if head_block is None:
        return _by_frame(delays, _nll(lm, delays, forced, hidden), streams)
    blocks = zip(hidden.split(head_block, dim=1), forced.split(head_block, dim=2), strict=True)
    parts = [
        cast(Tensor, checkpoint(_nll, lm, delays, told, heard, use_reentrant=False))
        for heard, told in blocks
    ]
    return _by_frame(delays, torch.cat(parts, dim=2), streams)


@contextmanager
def sparing(lm: LMModel, memory: MemoryConfig, frames: int) -> Iterator[None]:
    """Inside, windows of `frames` frames are trained within the memory asked for.

    Nothing is compiled inside, forward or backward: compiled functions would be called with other
    shapes in the backward pass of what is computed anew. The model is as before afterwards.
    """
    layers = [each.layer for each in ttt_layers(lm).values()]
    configs, checkpointing = [layer.config for layer in layers], lm.transformer.checkpointing
    try:
        set_attention_block(lm, memory.attention_block or lm.context)
        lm.transformer.checkpointing = memory.checkpoint_layers
        for layer in layers:
            asked = memory.checkpoint_mini_batches
            if asked == "auto":
                asked = mini_batches_per_checkpoint(frames, layer.config.mini_batch_size)
            layer.config = dataclasses.replace(layer.config, checkpoint_mini_batches=asked)
        with no_compile():
            yield
    finally:
        set_attention_block(lm, None)
        lm.transformer.checkpointing = checkpointing
        for layer, config in zip(layers, configs, strict=True):
            layer.config = config


def mini_batches_per_checkpoint(frames: int, mini_batch_size: int) -> int:
    """How many mini-batches are best computed anew together: about the square root of all.

    Then as many are kept at once as there are states between groups. 8 to 32 are alike; fewer
    cost more states than they save.
    """
    return max(8, round(math.sqrt(frames / mini_batch_size)))


def _hidden(lm: LMModel, columns: Tensor) -> Tensor:
    """[B, S, D] of columns [B, K, S]: the published `forward_text` without its text logits."""
    voices = [embed(columns[:, k]) for k, embed in enumerate(lm.emb, start=lm.audio_offset)]
    heard = functools.reduce(torch.add, voices) + lm.text_emb(columns[:, 0])
    return lm.out_norm(lm.transformer(heard))


def _nll(lm: LMModel, delays: Delays, forced: Tensor, hidden: Tensor) -> Tensor:
    """[B, predicted, S] by step; NaN where a step predicts a frame that does not exist."""
    logits = audio_logits(lm, forced, hidden)
    return negative_log_likelihood(logits, delays.predicted_codes(forced))


def _by_frame(delays: Delays, nll: Tensor, streams: Streams) -> Tensor:
    return delays.by_frame(nll)[:, streams.predicted]


def _check(lm: LMModel, streams: Streams) -> None:
    if streams.own_text:
        raise UserError(
            "training cannot let the model choose its own text: give the text that it chose, as "
            "cached, or train with pad or masked"
        )
    if lm.fuser is not None:
        raise UserError("this model needs conditions, which training cannot give it")
    if lm.is_streaming:
        raise UserError("this model is streaming: close its session before training")
