"""What goes into a cache of chapters: every input ends in a shard, or in the manifest with why."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from ttt.audio import Piece

Reason = Literal["unreadable", "too short", "no text", "failed"]


class LeftOut(Exception):
    """A chapter that is not cached, with its reason and what a person needs to know of it."""

    def __init__(self, reason: Reason, note: str) -> None:
        super().__init__(reason, note)
        self.reason = reason
        self.note = note


@dataclass(frozen=True)
class ChapterInput:
    """A chapter as it was found."""

    chapter_id: str
    """Unique in the cache."""
    speaker: str = ""
    book: str = ""
    pieces: tuple[Piece, ...] = ()
    """In order; where one follows another is a join."""
    problem: Reason | None = None
    """Why it cannot be cached, where that was known before encoding."""
    note: str = ""
    """The details of `problem`, or what was made of its description."""

    @property
    def files(self) -> tuple[str, ...]:
        """The audio files it is made of, each once, in order."""
        return tuple(dict.fromkeys(piece.path for piece in self.pieces))

    @property
    def seconds(self) -> float:
        """How long its audio lasts."""
        return sum(piece.seconds for piece in self.pieces)

    def size_on_disk(self) -> int | None:
        """Bytes of its files together; None where one is missing, or none is known.

        A replaced file is noticed by it: reading all audio again would cost too much.
        """
        try:
            return sum(os.stat(path).st_size for path in self.files) if self.files else None
        except OSError:
            return None
