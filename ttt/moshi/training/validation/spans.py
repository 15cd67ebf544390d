"""Which chapters are held out, and which of their frames a validation hears.

Everything here is a pure function of ids, speakers and lengths: the order of the chapters in their
cache does not matter. A span begins at its chapter's first frame, where an evaluation begins, too:
its loss is the one that `evaluate_chapters` finds with max_frames set to the span's.
"""

from __future__ import annotations

import difflib
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


class Split(NamedTuple):
    """Rows of chapters, rising, int64."""

    training: np.ndarray
    held_out: np.ndarray

    @classmethod
    def of(cls, names: Sequence[str], held_out: set[str]) -> Split:
        """`names` are one per chapter; those of `held_out` do not train."""
        held = np.array([name in held_out for name in names])
        return cls(np.flatnonzero(~held), np.flatnonzero(held))


@dataclass(frozen=True)
class Span:
    """The first frames of a chapter."""

    row: int
    """Of the chapter."""
    chapter_id: str
    frames: int
    speaker: str


def split_speakers(chapters: Sequence[Spoken], share: float) -> Split:
    """Hold out the `share` of speakers whose names hash lowest, with all their chapters.

    At least one speaker is on either side, and none is on both.

    Raises:
        UserError: the chapters have fewer than two speakers.
    """
    speakers = [chapter.speaker for chapter in chapters]
    order = sorted(set(speakers), key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(order) < 2:
        there = f"one speaker, {order[0]}" if order else "no speaker"
        raise UserError(
            f"validation holds out whole speakers, and the {len(chapters):,} chapters have "
            f"{there}: cache chapters of more speakers, or set data.validation_share=null and name "
            "the chapters to hold out in data.validation_chapters"
        )
    chosen = set(order[: min(max(1, round(share * len(order))), len(order) - 1)])
    return Split.of(speakers, chosen)


def hold_out(chapters: Sequence[Spoken], ids: Sequence[str]) -> Split:
    """Hold out the chapters of these ids; their speakers may have others that train.

    Raises:
        UserError: an id that no chapter has, or no chapter left to train on.
    """
    names = [chapter.chapter_id for chapter in chapters]
    if unknown := sorted(set(ids) - set(names)):
        near = difflib.get_close_matches(unknown[0], names, n=1, cutoff=0.0)
        raise UserError(
            f"data.validation_chapters: no chapter of the cache is called {unknown[0]}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    split = Split.of(names, set(ids))
    if not len(split.training):
        raise UserError(
            f"data.validation_chapters holds out all {len(names):,} chapters of the cache: leave "
            "some to train on"
        )
    return split


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
