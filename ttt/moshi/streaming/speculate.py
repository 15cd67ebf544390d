"""Own text without a step at a time: guess it, hear a whole chunk, keep what was guessed right.

When a model's text is its own argmax, step s + 1 needs the text that step s chooses. So the text
of a chunk is guessed and heard in one pass, which then says what each step would have chosen. The
first step's choice stands, and every further one as long as all guesses before it were right:
these are the numbers of stepping. The rest is taken back. What the rejected steps chose, though
they had heard a wrong text, is a far better guess for the next pass than padding.

Rows of a batch advance together, by what all of them agree to.

Shapes: B streams, n steps, V text vocabulary.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

NEAR_TIE = 1e-4
"""Two best text logits closer than this may come out in either order in float32."""


@dataclasses.dataclass
class Acceptance:
    """What the passes so far came to."""

    passes: int = 0
    """Forward passes of the temporal transformer."""
    heard: int = 0
    """Steps that these passes computed."""
    kept: int = 0
    """Steps that stood."""
    near_ties: int = 0
    """Own text chosen, of any row, where the two best logits were closer than NEAR_TIE."""

    @property
    def rate(self) -> float:
        """Share of the computed steps that stood; 1 where the text is known."""
        return self.kept / self.heard if self.heard else 1.0

    def count(self, heard: int, kept: int, near_ties: int = 0) -> None:
        """One pass more."""
        self.passes += 1
        self.heard += heard
        self.kept += kept
        self.near_ties += near_ties


def guess_text(pending: Tensor, steps: int, padding: int) -> Tensor:
    """[B, steps] guesses: those still pending from the last pass, then padding."""
    missing = steps - pending.shape[1]
    if missing <= 0:
        return pending[:, :steps]
    return torch.cat([pending, pending.new_full((len(pending), missing), padding)], dim=1)


def best_text(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The best token [B, n] of logits [B, n, V], and by how much it beats the second best."""
    values, tokens = logits.topk(2, dim=-1)
    return tokens[..., 0], values[..., 0] - values[..., 1]


def steps_that_stand(
    guess: Tensor, chosen: Tensor, margin: Tensor, alive: Tensor | None
) -> tuple[int, int]:
    """How many steps of a pass stand in every row, and how many near ties were chosen in them.

    One step more stands than were guessed right at first. What the machine must know of a pass is
    read back here, at once: a device is waited for once a pass.

    Args:
        guess, chosen: [B, n] the text heard and the text chosen.
        margin: [B, n] of `best_text`.
        alive: [B, n] where a row still has frames; elsewhere any text will do. None: everywhere.
    """
    wrong, tied = guess != chosen, margin < NEAR_TIE
    if alive is not None:
        wrong, tied = wrong & alive, tied & alive
    stands = F.pad(wrong.any(dim=0)[:-1].cumsum(dim=0) == 0, (1, 0), value=True)
    kept, ties = torch.stack([stands.sum(), (tied & stands).sum()]).cpu().tolist()
    return kept, ties
