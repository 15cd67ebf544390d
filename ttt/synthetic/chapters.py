"""Chapters of codes whose statistics can only be learnt over more than one attention window.

Every chapter hides a random table from cues to answers. Its semantic codes alternate: a cue, then
the answer that the table gives. Cues come in rounds; each cue occurs once a round, and never again
within `min_lag_frames`. Who cannot remember that far sees answers drawn at random: log(cues) nats
each, for ever. Who remembers knows every answer from the second round on.

Without structure each answer is drawn afresh. Any stretch shorter than `min_lag_frames` has then
exactly the same distribution as with structure, so that this is a null control: a difference
between models there is not memory. Stacked attention layers reach layers x context frames back;
choose `min_lag_frames` beyond that.

The acoustic codes are fixed functions of the semantic code of their frame.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ttt.config import Config

CODEBOOKS = 8
SYNTHETIC = "synthetic"
"""Stands where the name of a Mimi would: none made these codes."""


@dataclass(frozen=True, kw_only=True)
class SyntheticChapterConfig(Config):
    """The language of synthetic chapters."""

    cues: int = 32
    """Different cues, and as many different answers; a round takes twice as many frames."""
    cues_per_block: int = 4
    """Cues are shuffled within blocks of this many; blocks keep their order."""
    card: int = 64
    """Size of the codebooks; holds cues and answers."""
    structure: Literal["table", "none"] = "table"
    """Whether answers follow the chapter's table or are drawn afresh (the null control)."""

    def __post_init__(self) -> None:
        if self.cues_per_block < 1 or self.cues % self.cues_per_block:
            raise ValueError("cues must be a multiple of cues_per_block, which must be 1 or more")
        if self.card < 2 * self.cues:
            raise ValueError(f"card must be at least {2 * self.cues} to hold cues and answers")

    @property
    def codes_sha256(self) -> str:
        """What stands for a Mimi's weights: equal where codes mean the same, whatever their
        structure."""
        meaning = replace(self, structure="table").to_dict()
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()

    @property
    def min_lag_frames(self) -> int:
        """The fewest frames between two occurrences of a cue."""
        return 2 * (self.cues - self.cues_per_block + 1)

    @property
    def round_frames(self) -> int:
        """Frames in which every cue occurs once."""
        return 2 * self.cues

    def best_semantic_loss(self, *, remembers: bool) -> float:
        """Mean semantic NLL in nats that no model can be better than.

        A cue is one of those its block has left. With `remembers`, answers of the table are known;
        that is the bound from the second round on.
        """
        block = self.cues_per_block
        cue = sum(math.log(left) for left in range(1, block + 1)) / block
        known = remembers and self.structure == "table"
        return (cue + (0.0 if known else math.log(self.cues))) / 2


def synthetic_chapter(
    config: SyntheticChapterConfig, seed: int, frames: int
) -> npt.NDArray[np.int64]:
    """Codes [8, frames]; a function of its arguments alone."""
    rng = np.random.default_rng(seed)
    rounds = -(-frames // config.round_frames)
    blocks = np.arange(config.cues).reshape(-1, config.cues_per_block)
    cues = np.concatenate([rng.permuted(blocks, axis=1).ravel() for _ in range(rounds)])
    table = rng.integers(config.cues, size=config.cues)
    drawn = rng.integers(config.cues, size=len(cues))
    answers = table[cues] if config.structure == "table" else drawn
    semantic = np.stack([cues, config.cues + answers], axis=1).ravel()[:frames]
    books = np.arange(CODEBOOKS)[:, None]
    return (semantic * (2 * books + 1) + 7 * books) % config.card
