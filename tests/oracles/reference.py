"""The slow route that everything else is held to: the published generator, a step at a time.

`LMGen` draws the text (its argmax) and carries the state, with the codes forced in place of what
it would generate; the depformer then runs codebook after codebook, as it does when it generates.
Only what the package offers to its users is called.

Two things are easily done wrong, and were in earlier evaluations. Forced codes go in as the model
sees them, delayed. And the other voice's frame f goes in with call f + 1, because the generator
keeps it for the step after: call 0 hears nothing but initial tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from moshi.models.lm import LMGen, LMModel
from moshi.utils.compile import no_compile
from torch import Tensor

from ttt.moshi.streaming.delays import Delays
from ttt.moshi.streaming.state import start_streaming


class Stepped(NamedTuple):
    """What T + 1 steps predicted of T frames."""

    text_logits: Tensor  # [B, T, V]
    text: Tensor  # [B, T] the model's own
    audio_logits: Tensor  # [B, Q, T, card] aligned with the codes


@torch.no_grad()
def step_by_step(lm: LMModel, audio: Tensor) -> Stepped:
    """Listen to audio [B, K - 1, T] with the model's own text, in the slowest and plainest way."""
    batch, _, frames = audio.shape
    delays = Delays.of(lm)
    steps = delays.steps(frames)
    tokens = torch.cat([audio.new_zeros(batch, 1, frames), audio], dim=1)
    forced = delays.columns(tokens, 1, steps)
    texts: list[Tensor] = []
    text_logits: list[Tensor] = []
    hidden: list[Tensor] = []
    audio_logits: list[Tensor] = []
    generator = LMGen(
        lm,
        use_sampling=False,
        support_out_of_sync=True,
        on_text_logits_hook=lambda logits: text_logits.append(logits[:, 0, 0].clone()),
        on_text_hook=lambda text: texts.append(text.clone()),
    )
    watch = lm.out_norm.register_forward_hook(lambda _, __, out: hidden.append(out.clone()))
    own, other = slice(1, 1 + delays.predicted), slice(1 + delays.predicted, None)
    try:
        with no_compile(), start_streaming(generator, batch):
            for step in range(steps):
                # The other voice has its delays applied by the generator itself.
                previous = tokens[:, other, max(step - 1, 0)][:, :, None].long()
                generator.step(previous, forced[:, own, step][:, :, None])
                codes = forced[:, own, step]
                audio_logits.append(_codebook_by_codebook(lm, texts[-1], codes, hidden[-1]))
    finally:
        watch.remove()
        lm.set_streaming_detached(False)
    return Stepped(
        torch.stack(text_logits, dim=1)[:, :frames],
        torch.stack(texts, dim=1)[:, :frames],
        delays.by_frame(torch.stack(audio_logits, dim=2)),
    )


def _codebook_by_codebook(lm: LMModel, text: Tensor, codes: Tensor, hidden: Tensor) -> Tensor:
    """[B, Q, card] logits of one step, each codebook told the one before it (codes [B, Q])."""
    assert lm.depformer is not None  # Delays.of has seen to that.
    logits, previous = [], text
    with start_streaming(lm.depformer, len(text)):
        for codebook in range(lm.dep_q):
            told = previous[:, None, None]
            logits.append(lm.forward_depformer(codebook, told, hidden)[:, 0, 0])
            previous = codes[:, codebook]
    return torch.stack(logits, dim=1)
