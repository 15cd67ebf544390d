"""Moshi over whole windows, as it is trained: the NLL of every code, with gradients.

One pass hears all frames, not a chunk at a time: the same columns, targets and heads as the
streaming evaluation, and the same numbers. Forward and backward belong inside
`ttt.moshi.training.sparing`, both: what is computed anew must take the way that it took before.

Shapes: B windows, K tokens per column, Q codebooks of a voice, T frames, S steps, D width of the
model.
"""

from __future__ import annotations

import functools
from typing import cast

import torch
from moshi.models.lm import LMModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ttt.errors import UserError
from ttt.moshi.streaming.delays import Delays
from ttt.moshi.streaming.evaluate import negative_log_likelihood
from ttt.moshi.streaming.heads import audio_logits
from ttt.moshi.streaming.streams import Streams


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


def _hidden(lm: LMModel, columns: Tensor) -> Tensor:
    """[B, S, D] of columns [B, K, S]: the published `forward_text` without its text logits."""
    voices = (embed(columns[:, k]) for k, embed in enumerate(lm.emb, start=lm.audio_offset))
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
