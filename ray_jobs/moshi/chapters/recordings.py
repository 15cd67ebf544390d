"""What an evaluation of chapters hears: recordings, chapters of a cache, or made ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.moshi.synthetic import SyntheticChapter, synthetic_chapters
from ttt.eval.chapters.cached import CachedRecording, find_cached
from ttt.eval.chapters.find import Chapter, Unreadable, find_chapters
from ttt.eval.config import FRAME_RATE
from ttt.moshi.chapter_cache.reader import ChapterCache

Recording = Chapter | CachedRecording | SyntheticChapter


def find_recordings(
    config: EvaluateChaptersConfig,
) -> tuple[Sequence[Recording], Sequence[Unreadable]]:
    """The chapters that a configuration names, in natural order, and those that cannot be read.

    Raises UserError as `find_chapters`, `ChapterCache.open` and `find_cached` do.
    """
    if config.data is not None and config.data.cache is not None:
        return find_cached(ChapterCache.open(config.data.cache), config.data), []
    if config.data is not None:
        return find_chapters(config.data)
    assert config.synthetic is not None  # The configuration has one of the two.
    return synthetic_chapters(config.synthetic), []


def heard_frames(recording: Recording, max_frames: int | None) -> int:
    """Frames of a recording, the last one filled up, as far as they are to be heard."""
    if isinstance(recording, Chapter):
        frames = math.ceil(round(recording.seconds * FRAME_RATE, 6))
    else:
        frames = recording.frames
    return frames if max_frames is None else min(frames, max_frames)


def notes_on(recording: Recording) -> tuple[str, ...]:
    """What was made of its description, where that was not taken as it stands."""
    return recording.notes if isinstance(recording, Chapter) else ()


def place_in_words(config: EvaluateChaptersConfig) -> str:
    """Where the chapters come from."""
    data = config.data
    if data is None:
        return "made of codes"
    return f"in {', '.join(data.roots)}" if data.cache is None else f"in the cache {data.cache}"
