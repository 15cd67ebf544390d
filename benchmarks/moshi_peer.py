"""The published model driven as well as its own modules allow, for others to be compared with.

`forward_text` takes many steps at once where the text is known, if the rings are wide enough for
them; where the model chooses its text each step waits for the one before. The depformer is told
the recording, and takes a block of steps in one pass. Nothing of ttt's evaluation is used but the
arithmetic of delays.

Shapes: T frames, Q codebooks (8), K tokens per frame.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
from moshi.models.lm import LMModel
from moshi.utils.compile import no_compile
from torch import Tensor
from torch.nn import functional as F

from ttt.moshi.insert import temporal_layers
from ttt.moshi.streaming.delays import ZERO_TOKEN, Delays
from ttt.moshi.streaming.evaluate import negative_log_likelihood


@torch.no_grad()
def listen(lm: LMModel, codes: Tensor, *, own_text: bool, chunk: int) -> tuple[Tensor, Tensor]:
    """Text [1, T] and NLL [1, Q, T] of codes [1, Q, T], the other voice silent.

    Args:
        own_text: the model's argmax, a step at a time; otherwise padding, a chunk at a time.
        chunk: steps of the depformer, and of the transformer where the text is known.
    """
    delays = Delays.of(lm)
    frames, steps = codes.shape[2], delays.steps(codes.shape[2])
    heard = F.pad(codes.long(), (0, steps - frames), value=ZERO_TOKEN)
    text = torch.full_like(heard[:, :1], lm.text_padding_token_id)
    tokens = torch.cat([text, heard, torch.full_like(heard, ZERO_TOKEN)], dim=1)
    columns = delays.columns(tokens, 0, steps + 1)
    at_once = 1 if own_text else chunk
    losses: list[Tensor] = []
    hidden: list[Tensor] = []
    scored = 0
    with no_compile(), _wide_rings(lm, at_once):
        for first in range(0, steps, at_once):
            last = min(first + at_once, steps)
            state, logits = lm.forward_text(columns[:, :, first:last])
            hidden.append(state)
            if own_text:
                columns[:, 0, last] = logits[:, 0, -1].argmax(-1)
            if last - scored >= chunk or last == steps:
                forced = columns[:, :, scored + 1 : last + 1]
                logits = lm.forward_depformer_training(forced, torch.cat(hidden, dim=1))
                losses.append(negative_log_likelihood(logits, delays.predicted_codes(forced)))
                hidden, scored = [], last
    return columns[:, 0, 1 : frames + 1], delays.by_frame(torch.cat(losses, dim=2))


def _wide_rings(lm: LMModel, chunk: int) -> ExitStack:
    """The model streaming, its rings a chunk longer than attention reaches."""
    attentions = [layer.self_attn for layer in temporal_layers(lm)]
    contexts = [int(attention.context or 0) for attention in attentions]
    for attention, context in zip(attentions, contexts, strict=True):
        attention.context = context + chunk
    try:
        return lm.streaming(1)
    finally:
        for attention, context in zip(attentions, contexts, strict=True):
            attention.context = context
