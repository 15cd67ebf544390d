"""What comes of listening: hidden states and text first, from them the prediction of the codes.

Shapes: B streams, K tokens per frame (text and K - 1 audio codebooks), Q codebooks predicted,
n steps, D width of the model, V text vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What steps predict; `step` leaves the dimension n out."""

    text_logits: Tensor  # [B, n, V] float32 or float64
    text: Tensor  # [B, n] what the depformer was told and the next step hears
    audio_logits: Tensor  # [B, Q, n, card]
    targets: Tensor  # [B, Q, n] the code each of them predicts; -1 where there is none


@dataclasses.dataclass(frozen=True)
class Heard:
    """What the temporal transformer gave for steps that stand."""

    hidden: Tensor  # [B, n, D]
    text: Tensor  # [B, n]
    forced: Tensor  # [B, K, n] what the depformer is to be told: the column after each step

    def __getitem__(self, steps: slice) -> Heard:
        """Some of the steps."""
        return Heard(self.hidden[:, steps], self.text[:, steps], self.forced[:, :, steps])


def join(parts: Sequence[Heard]) -> Heard:
    """Stretches heard one after the other, as one."""
    return Heard(
        torch.cat([part.hidden for part in parts], dim=1),
        torch.cat([part.text for part in parts], dim=1),
        torch.cat([part.forced for part in parts], dim=2),
    )
