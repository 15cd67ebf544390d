"""A finished evaluation compared with stepping: its beginning, and random spans further on.

Two things are heard again. The beginning, one step at a time from the first frame on, so that the
state, too, comes of steps alone: what chunks do to it shows here, as far as the steps go. And
random spans, stepped from a state that chunks have made, as in the evaluation: what a chunk does
to the frames inside it shows here, anywhere in a recording. A fault of the state that begins
beyond the stepped beginning shows in neither.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from moshi.models.lm import LMModel
from torch import Tensor

from ttt.moshi.streaming.evaluate import negative_log_likelihood
from ttt.moshi.streaming.session import Session
from ttt.moshi.streaming.speculate import NEAR_TIE, best_text
from ttt.moshi.streaming.streams import Streams


@dataclasses.dataclass
class Verification:
    """How far an evaluation is from stepping, where the two were compared."""

    frames: int = 0
    """Frames in random spans, of all recordings, stepped from a state that chunks had made."""
    beginning_frames: int = 0
    """Frames of all recordings stepped from the first one on, with nothing heard in chunks."""
    largest_nll_difference: float = 0.0
    """Nats, over all codebooks of both."""
    text_differences: int = 0
    """Times that own text came out differently; a frame in both counts in both."""
    unexplained_text_differences: int = 0
    """Those where the two best logits were not closer than 1e-4: none in float32."""


def verify(
    lm: LMModel,
    streams: Streams,
    nll: Tensor,
    text: Tensor,
    *,
    spans: int,
    span_frames: int = 16,
    beginning_frames: int | None = None,
    chunk: int = 32,
    seed: int = 0,
) -> Verification:
    """Hear the recordings again: their beginning by steps, then `spans` random stretches.

    What lies between the stretches is heard by the chunk, with the text that the evaluation found.

    Args:
        streams: the recordings and words that were evaluated.
        nll, text: [B, Q, T] and [B, T] what came of it.
        beginning_frames: how far to step from the first frame on; less where recordings end,
            and None as far as that.
    """
    found = Verification()
    with Session(lm, streams.batch, max_chunk=1) as session:
        count = streams.frames
        if beginning_frames is not None:
            count = min(beginning_frames, count)
        found.beginning_frames = _compare(session, streams, nll, text, count, found)
    draw = torch.Generator().manual_seed(seed)
    starts = torch.randint(max(1, streams.frames - span_frames + 1), (spans,), generator=draw)
    with Session(lm, streams.batch, max_chunk=chunk) as session:
        for start in sorted(set(starts.tolist())):
            first = max(start, session.position)  # Spans that overlap are heard as one.
            count = min(start + span_frames, streams.frames) - first
            if count < 1:
                continue
            while session.position < first:
                steps = min(chunk, first - session.position)
                audio = streams.audio(session.position, steps)
                known = text[:, session.position : session.position + steps].to(audio)
                session.listen(audio, known)
            found.frames += _compare(session, streams, nll, text, count, found)
    return found


def _compare(
    session: Session, streams: Streams, nll: Tensor, text: Tensor, count: int, found: Verification
) -> int:
    """Step through the next `count` frames and note differences; returns how many were real."""
    first = session.position
    stepped = [_step(session, streams, text, found) for _ in range(session.delays.steps(count))]
    by_frame = session.delays.by_frame(torch.cat(stepped, dim=2))[:, streams.predicted]
    alive = streams.alive(first, count)[:, None]
    difference = (by_frame - nll[:, :, first : first + count]).abs()
    largest = difference.masked_fill(~alive, 0.0).max().item()
    # Unlike max, this keeps what is not a number.
    found.largest_nll_difference = float(np.maximum(found.largest_nll_difference, largest))
    return int(alive.sum())


def _step(session: Session, streams: Streams, text: Tensor, found: Verification) -> Tensor:
    """NLL [B, predicted, 1] of the next step, which then goes on with the text found before."""
    frame = session.position
    audio = streams.audio(frame, 1)
    known = None if streams.own_text else streams.text(frame, 1)
    prediction = session.step_chunk(audio, known)
    if streams.own_text and frame < streams.frames:
        before = text[:, frame : frame + 1].to(audio)
        differs = (prediction.text != before) & streams.alive(frame, 1).to(audio.device)
        if differs.any():
            far = best_text(prediction.text_logits)[1] >= NEAR_TIE
            found.text_differences += int(differs.sum())
            found.unexplained_text_differences += int((differs & far).sum())
            session.rollback(1)
            text_now = torch.where(differs, before, prediction.text)
            prediction = session.step_chunk(audio, text_now)
    return negative_log_likelihood(prediction.audio_logits, prediction.targets).cpu()
