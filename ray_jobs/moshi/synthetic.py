"""Made chapters of codes in place of recordings: which there are, and what each is made of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ttt.config import Config
from ttt.eval.config import FRAME_RATE
from ttt.permutation import permuted
from ttt.synthetic.chapters import SyntheticChapterConfig, synthetic_chapter


@dataclass(frozen=True, kw_only=True)
class SyntheticDataConfig(Config):
    """Made chapters of codes in place of recordings; see ttt.synthetic.chapters."""

    chapters: int = 12
    """How many."""
    speakers: int | None = 6
    """Chapters belong to so many speakers in turn, and statistics resample them; null gives every
    chapter a speaker of its own."""
    frames: int | tuple[int, ...] = 2000
    """Length of each; a list of lengths goes to the chapters in turn."""
    first_seed: int = 1_000_000
    """Of the first chapter; the others follow. Keep away from the seeds of training."""
    null_share: float = 0.0
    """Share of the chapters that have no structure, whatever the language says; a model that met
    nothing but tables would bet on its memory where there is nothing to remember."""
    language: SyntheticChapterConfig = field(default_factory=SyntheticChapterConfig)
    """What the chapters are made of."""

    def __post_init__(self) -> None:
        speakers = self.chapters if self.speakers is None else self.speakers
        if min((self.chapters, speakers, *self.lengths), default=0) < 1 or not self.lengths:
            raise ValueError("chapters, speakers and frames must be 1 or more")
        if self.first_seed < 0:
            raise ValueError("first_seed must not be negative")
        if not 0 <= self.null_share <= 1:
            raise ValueError(f"null_share must lie between 0 and 1, got {self.null_share}")
        if self.null_share and self.language.structure == "none":
            raise ValueError(
                "null_share has no effect where language.structure is none: set it to 0, or the "
                "structure to table"
            )

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that `frames` names."""
        return (self.frames,) if isinstance(self.frames, int) else self.frames


@dataclass(frozen=True)
class SyntheticChapter:
    """A synthetic chapter."""

    chapter_id: str
    speaker: str
    seed: int
    frames: int
    language: SyntheticChapterConfig

    @property
    def seconds(self) -> float:
        """How long it would last."""
        return self.frames / FRAME_RATE

    def codes(self) -> npt.NDArray[np.int16]:
        """Its codes [8, frames]."""
        return synthetic_chapter(self.language, self.seed, self.frames).astype(np.int16)


def synthetic_chapters(config: SyntheticDataConfig) -> list[SyntheticChapter]:
    """The chapters of a configuration, by their numbers; a function of it alone."""
    count, lengths = config.chapters, config.lengths
    # Drawn, not every second one: speakers and lengths take turns, too.
    places = permuted(np.arange(count), count, config.first_seed)
    without = places < round(config.null_share * count)
    none = replace(config.language, structure="none")
    chapters = []
    for number in range(count):
        speaker = f"speaker_{number % (config.speakers or count)}"
        chapters.append(
            SyntheticChapter(
                chapter_id=f"{speaker}/chapter_{number}",
                speaker=speaker,
                seed=config.first_seed + number,
                frames=lengths[number % len(lengths)],
                language=none if without[number] else config.language,
            )
        )
    return chapters
