"""How the codebooks of a voice weigh in a loss: what training and evaluation share."""

from __future__ import annotations

from typing import Literal

CodebookWeights = Literal["moshi", "uniform"]
FIRST_CODEBOOK_WEIGHT: dict[CodebookWeights, float] = {"moshi": 100.0, "uniform": 1.0}
"""What the semantic codebook counts, where each acoustic one counts 1: 100 as Moshi is trained."""


def mixture(weights: CodebookWeights, codebooks: int) -> tuple[float, ...]:
    """The share of each codebook in the loss of a frame, the semantic one first; they sum to 1."""
    first = FIRST_CODEBOOK_WEIGHT[weights]
    total = first + codebooks - 1
    return (first / total, *[1 / total] * (codebooks - 1))
