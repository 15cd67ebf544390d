"""Which speakers are held out, and which frames of their chapters a validation hears.

Everything here is a pure function of ids, speakers and lengths: the order of the chapters in their
cache does not matter. A span begins at its chapter's first frame, where an evaluation begins, too:
its loss is the one that `evaluate_chapters` finds with max_frames set to the span's.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple, Protocol

import numpy as np

from ttt.errors import UserError
from ttt.moshi.training.config import SpansConfig


class Spoken(Protocol):
    """A chapter, as a cache lists it."""

    @property
    def chapter_id(self) -> str: ...
    @property
    def speaker(self) -> str: ...
    @property
    def n_frames(self) -> int: ...


class SpeakerSplit(NamedTuple):
    """Rows of chapters, rising, int64; no speaker is on both sides."""

    training: np.ndarray
    held_out: np.ndarray


@dataclass(frozen=True)
class Span:
    """The first frames of a chapter."""

    row: int
    """Of the chapter."""
    chapter_id: str
    frames: int
    speaker: str


def split_speakers(chapters: Sequence[Spoken], share: float) -> SpeakerSplit:
    """Hold out the `share` of speakers whose names hash lowest, with all their chapters.

    At least one speaker is on either side.

    Raises:
        UserError: the chapters have fewer than two speakers.
    """
    speakers = [chapter.speaker for chapter in chapters]
    order = sorted(set(speakers), key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(order) < 2:
        there = f"one speaker, {order[0]}" if order else "no speaker"
        raise UserError(
            f"validation holds out whole speakers, and the {len(chapters):,} chapters have "
            f"{there}: cache chapters of more speakers, or name another cache for validation"
        )
    chosen = set(order[: min(max(1, round(share * len(order))), len(order) - 1)])
    held = np.array([name in chosen for name in speakers])
    return SpeakerSplit(np.flatnonzero(~held), np.flatnonzero(held))


def choose_spans(
    chapters: Sequence[Spoken], rows: Sequence[int] | np.ndarray, config: SpansConfig
) -> tuple[Span, ...]:
    """The spans that every validation of a run hears.

    Speakers take turns, in the order of their names, each with its longest span first; chapters
    that are as long as a span or longer are alike, and go by their ids.

    Args:
        chapters: of a cache.
        rows: of the held-out ones.
    """
    by_speaker: dict[str, list[Span]] = defaultdict(list)
    for row in rows:
        chapter = chapters[row]
        frames = min(config.span_frames, chapter.n_frames)
        by_speaker[chapter.speaker].append(
            Span(int(row), chapter.chapter_id, frames, chapter.speaker)
        )
    for spans in by_speaker.values():
        spans.sort(key=lambda span: (-span.frames, span.chapter_id))
    in_turn = zip_longest(*(by_speaker[name] for name in sorted(by_speaker)))
    ordered = [span for turn in in_turn for span in turn if span is not None]
    return tuple(ordered[: config.most_spans])


def require_beyond_window(spans: Sequence[Span], window: int) -> None:
    """Raise UserError where no span is longer than the window of attention.

    What decides is the loss beyond it, and there would be none.

    Args:
        window: `ttt.moshi.insert.attention_window` of the model.
    """
    longest = max((span.frames for span in spans), default=0)
    if longest <= window:
        raise UserError(
            f"no validation span reaches beyond the {window:,} frames of the attention window, "
            f"where the loss decides which step is the best: the longest of {len(spans):,} has "
            f"{longest:,} frames; raise span_frames, or hold out longer chapters"
        )
