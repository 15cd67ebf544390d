"""What counts as independent in a decoder's evaluation: speakers, or clips."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from ttt.statistics.intervals import FEWEST_CLUSTERS


@dataclass(frozen=True)
class Units:
    """The unit of every clip, and what that means for the verdict."""

    kind: str
    """What one unit is called: speaker or clip."""
    of_clips: Sequence[Hashable]
    """One name per clip; equal names are one unit."""
    sentence: str
    """What the units are, for the reader."""
    refusal: str | None
    """Why there can be no verdict; None when there can."""
    one_speaker: bool = False
    """Whether the verdict is about one speaker only."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(set(self.of_clips))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"kind": self.kind, "count": self.count, "sentence": self.sentence}


def units_of(speakers: Sequence[str | None]) -> Units:
    """The units of clips by these speakers (None: unknown), one per clip.

    Speakers are the units where at least five are known; clips of unknown speakers then make up
    one unit together, since they may all be one person's. Clips are the units where all are one
    speaker's, and where no speaker is known. Anything else gives no verdict.
    """
    clips = len(speakers)
    known = {speaker for speaker in speakers if speaker is not None}
    unknown = sum(speaker is None for speaker in speakers)
    if len(known) >= FEWEST_CLUSTERS:
        rest = f"; the {unknown} of unknown speakers count as one more" if unknown else ""
        sentence = f"Units are the {len(known)} speakers of the {clips} clips{rest}."
        return Units("speaker", list(speakers), sentence, None)
    too_few = f"{clips} {'clip' if clips == 1 else 'clips'}; a verdict needs {FEWEST_CLUSTERS}."
    refusal = too_few if clips < FEWEST_CLUSTERS else None
    if not known:
        sentence = (
            f"Who speaks is unknown, so the {clips} clips are the units; where speakers share "
            "them, the intervals are too narrow."
        )
        return Units("clip", range(clips), sentence, refusal)
    if len(known) == 1 and not unknown:
        sentence = (
            f"All {clips} clips are of one speaker ({known.pop()}): clips are the units, and this "
            "is about this speaker alone."
        )
        return Units("clip", range(clips), sentence, refusal, one_speaker=True)
    others = f", and of unknown ones ({unknown} clips)" if unknown else ""
    speakers_known = "1 known speaker" if len(known) == 1 else f"{len(known)} known speakers"
    sentence = f"The {clips} clips are of {speakers_known}{others}."
    if refusal is None:
        refusal = (
            f"{sentence} A verdict needs {FEWEST_CLUSTERS} known speakers, or one alone, or none "
            "known; fewer say too little about other speakers."
        )
    return Units("speaker", list(speakers), sentence, refusal)
