"""Chapters of a cache (`ttt.moshi.chapter_cache`) that an evaluation hears in place of audio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ttt.errors import UserError
from ttt.eval.chapters.choose import at_most, chosen
from ttt.eval.config import ChapterConfig
from ttt.files.errors import FileIdentity
from ttt.moshi.chapter_cache.reader import ChapterCache


@dataclass(frozen=True)
class CachedRecording:
    """A chapter whose codes are in a cache."""

    chapter_id: str
    speaker: str
    book: str
    seconds: float
    frames: int
    row: int
    """Of the cache."""
    codes: FileIdentity
    """Of all its codes."""


def find_cached(cache: ChapterCache, config: ChapterConfig) -> list[CachedRecording]:
    """The chapters of a cache that are asked for, in its order.

    Raises UserError for a name of `speakers` or `books` that does not occur, and where nothing is
    left.
    """
    width = 2 * cache.codes.codebooks
    recordings = [
        CachedRecording(
            each.chapter_id, each.speaker, each.book, each.seconds, each.n_frames, row,
            FileIdentity(sha256=each.codes_sha256, bytes=each.n_frames * width),
        )
        for row, each in enumerate(cache.chapters)
    ]  # fmt: skip
    recordings = chosen(recordings, config, cache.uri)
    recordings = [each for each in recordings if each.seconds >= config.min_seconds]
    if not recordings:
        raise UserError(f"{cache.uri}: no chapter lasts min_seconds={config.min_seconds:g} s")
    return at_most(recordings, config.max_chapters)


def read_cached(
    cache: ChapterCache, recording: CachedRecording
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int64]]:
    """Codes [8, T] of a chapter, and the frames at which a later piece begins.

    Raises UserError for a damaged shard, and where the cache has become another since the plan.
    """
    there = cache.chapters[recording.row]
    if (there.chapter_id, there.codes_sha256) != (recording.chapter_id, recording.codes.sha256):
        raise UserError(f"{cache.uri}: is another cache than when it was listed; run again")
    codes = cache.read(recording.row, 0, recording.frames)
    return np.ascontiguousarray(codes.T), np.array(there.joins, dtype=np.int64)
