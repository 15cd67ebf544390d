"""Which step of Moshi hears which code and predicts which: the one place that shifts by a delay.

Moshi reads one column of 17 tokens per step: the text, eight codebooks of its own voice and eight
of the other's, where codebook k of frame f is delayed by delays[k] steps (0 for the text and for
the semantic codebook, 1 for the seven acoustic ones):

    step s hears     column s: the token of frame s - 1 - delays[k] in every stream k, the initial
                     token where that is before the first frame (column 0 is all initial)
    step s predicts  the text of frame s and the code of frame s - delays[k] in every codebook k

So the loss of frame f comes from step f (text, semantic) and step f + 1 (acoustic), and T frames
take T + 1 steps. The depformer of step s is forced with the very codes the step predicts: column
s + 1. In the last of the T + 1 steps the semantic code of a frame T would be needed, which is not
there; the zero token (-1, embedding 0) stands for it.

Shapes: B streams of audio evaluated together, K tokens per column (17), Q codebooks that the
model predicts (8), T frames, S steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from moshi.models.lm import LMModel
from torch import Tensor

from ttt.errors import UserError

ZERO_TOKEN = -1
"""The token whose embedding is exactly zero: a stream that says nothing at all."""


@dataclass(frozen=True)
class Delays:
    """The delays of one model, in steps, and the tokens before its first frame."""

    by_stream: tuple[int, ...]
    """Delay of each of the K streams: text first, then the audio codebooks."""
    predicted: int
    """Audio codebooks that the model predicts (Q); they follow the text."""
    text_initial: int
    """Text token before the first frame."""
    audio_initial: int
    """Audio token before the first frame; codes run from 0 to audio_initial - 1."""

    @classmethod
    def of(cls, lm: LMModel) -> Delays:
        """The delays of a loaded model.

        Raises:
            UserError: the model does not predict its text undelayed and its audio from it.
        """
        by_stream = tuple(int(delay) for delay in lm.delays)
        if by_stream[0] != 0 or not 0 < lm.dep_q <= lm.n_q or lm.depformer is None:
            raise UserError(
                f"this model has delays {list(by_stream)} and predicts {lm.dep_q} of {lm.n_q} "
                "audio codebooks: evaluation needs text without delay and a depformer (use a "
                "Moshi dialogue model)"
            )
        return cls(by_stream, lm.dep_q, lm.text_initial_token_id, lm.initial_token_id)

    @property
    def longest(self) -> int:
        """The longest delay among the predicted codebooks: steps from a frame to its last loss."""
        return max(self._predicted_delays)

    @property
    def heard_frames(self) -> int:
        """A step hears tokens of this many frames before its own, and of none earlier."""
        return max(self.by_stream) + 1

    @property
    def _predicted_delays(self) -> tuple[int, ...]:
        return self.by_stream[1 : 1 + self.predicted]

    def steps(self, frames: int) -> int:
        """Steps that predict every codebook of `frames` frames."""
        return frames + self.longest

    def columns(self, tokens: Tensor, first_step: int, steps: int) -> Tensor:
        """What steps first_step, first_step + 1, ... hear.

        Args:
            tokens: [B, K, T] undelayed tokens of the whole recording, any integer type. Frames
                from T on are the zero token.

        Returns:
            [B, K, steps] int64.
        """
        if tokens.shape[1] != len(self.by_stream):
            raise ValueError(f"{tokens.shape[1]} streams given, {len(self.by_stream)} needed")
        delays, initial = self._on(tokens.device)
        frame = self._frames(first_step - 1, steps, delays)
        return torch.where(frame < 0, initial, _gather(tokens, frame))

    def targets(self, codes: Tensor, first_step: int, steps: int) -> Tensor:
        """What the audio logits of steps first_step, first_step + 1, ... should say.

        Args:
            codes: [B, Q, T] codes of the predicted codebooks.

        Returns:
            [B, Q, steps] int64; -1 where a step predicts a frame that does not exist.
        """
        if codes.shape[1] != self.predicted:
            raise ValueError(f"{codes.shape[1]} codebooks given, {self.predicted} needed")
        delays = torch.tensor(self._predicted_delays, device=codes.device)[:, None]
        return _gather(codes, self._frames(first_step, steps, delays))

    def predicted_codes(self, forced: Tensor) -> Tensor:
        """The targets [B, Q, S] of steps by the columns [B, K, S] that come after each of them."""
        codes = forced[:, 1 : 1 + self.predicted]
        return torch.where(codes < self.audio_initial, codes, ZERO_TOKEN)

    def by_frame(self, by_step: Tensor) -> Tensor:
        """Bring together what belongs to one frame.

        Args:
            by_step: [B, Q, S, ...] a value per prediction of S steps in a row.

        Returns:
            [B, Q, S - longest, ...]: entry f holds the frame whose undelayed codebooks the f-th of
            these steps predicted. Whoever streams keeps the last `longest` steps for next time.
        """
        frames = by_step.shape[2] - self.longest
        lines = [
            by_step[:, codebook, delay : delay + frames]
            for codebook, delay in enumerate(self._predicted_delays)
        ]
        return torch.stack(lines, dim=1)

    @staticmethod
    def _frames(first: int, count: int, delays: Tensor) -> Tensor:
        """[streams, count] frame of each stream at delayed positions first, first + 1, ...

        The delays are [streams, 1].
        """
        return torch.arange(first, first + count, device=delays.device) - delays

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Delays [K, 1] and initial tokens [K, 1], brought to a device once."""
        if device not in self._brought:
            initial = [self.text_initial] + [self.audio_initial] * (len(self.by_stream) - 1)
            both = torch.tensor([self.by_stream, initial], device=device)[:, :, None]
            self._brought[device] = both[0], both[1]
        return self._brought[device]

    @cached_property
    def _brought(self) -> dict[torch.device, tuple[Tensor, Tensor]]:
        return {}


def _gather(tokens: Tensor, frame: Tensor) -> Tensor:
    """tokens[b, k, frame[k, s]] as int64 [B, K, S]; the zero token outside the recording."""
    batch, _, frames = tokens.shape
    inside = (frame >= 0) & (frame < frames)
    if not frames:
        return torch.full((batch, *frame.shape), ZERO_TOKEN, device=tokens.device)
    picked = tokens.gather(2, frame.clamp(0, frames - 1).expand(batch, -1, -1)).long()
    return torch.where(inside, picked, ZERO_TOKEN)
