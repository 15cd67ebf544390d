"""`--verify`: a cache of chapters read whole, and a few of its chapters encoded once more."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ray_jobs.config.load import load_config
from ray_jobs.moshi.cache.config import CacheChaptersConfig
from ray_jobs.moshi.cache.plan import list_inputs
from ttt import storage
from ttt.errors import UserError
from ttt.moshi.chapter_cache.inputs import ChapterInput
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.moshi.chapter_cache.verify import verify_cache
from ttt.moshi.codes import encode_recording
from ttt.moshi.load import LoadedMimi, load_mimi
from ttt.numerics import exact_float32

_SAMPLED = 2
_LEAST_EQUAL = 0.99
"""Another processor rounds otherwise, which moves one code of thousands; other audio moves most."""


def verify(cache: str) -> None:
    """Print what is broken in a cache, or that it is sound. Raises UserError when it is broken."""
    problems = verify_cache(cache) or list(_encoded_again(cache))
    for problem in problems:
        print(problem)
    if problems:
        raise UserError(f"{cache}: {len(problems)} problem(s), listed above; run its job again")
    found = ChapterCache.open(cache)
    hours = sum(each.seconds for each in found.chapters) / 3600
    print(f"ok: {len(found):,} chapters, {hours:.2f} hours, {found.n_frames.sum():,} frames")


def _encoded_again(cache: str) -> Iterator[str]:
    """What of a few chapters differs from what their audio gives here, if audio and Mimi are."""
    found = ChapterCache.open(cache)
    why = _not_here(cache, found)
    if isinstance(why, str):
        print(f"no chapter was encoded again: {why}")
        return
    config, inputs = why
    rows = {each.chapter_id: row for row, each in enumerate(found.chapters)}
    there = [each for each in inputs if each.chapter_id in rows and each.problem is None]
    sample = random.Random(0).sample(there, min(_SAMPLED, len(there)))
    threads = torch.get_num_threads()
    if found.codes.device == "cpu":
        torch.set_num_threads(1)
    try:
        with exact_float32():
            mimi = load_mimi(config.mimi, device=found.codes.device)
            found.require_mimi(mimi.name, mimi.weights_sha256)
            for each in sample:
                yield from _differs(found, rows[each.chapter_id], each, mimi)
    finally:
        torch.set_num_threads(threads)


def _not_here(
    cache: str, found: ChapterCache
) -> str | tuple[CacheChaptersConfig, Sequence[ChapterInput]]:
    """The configuration and the chapters of a cache, or why they are not to be had here."""
    device = found.codes.device
    if device == "cuda" and not torch.cuda.is_available():
        return "they were made on a GPU, and there is none here"
    try:
        with storage.local_copy(storage.join(cache, "config.yaml")) as path:
            config = load_config(CacheChaptersConfig, path)
        return config, list_inputs(config.data)
    except UserError as error:
        return str(error)


def _differs(
    found: ChapterCache, row: int, chapter: ChapterInput, mimi: LoadedMimi
) -> Iterator[str]:
    """A sentence where the codes of a chapter are not those of its audio; else say how alike."""
    made = encode_recording(
        mimi.mimi, chapter.chapter_id, chapter.pieces, None, mimi.weights_sha256
    )
    there = found.read(row, 0, found.chapters[row].n_frames)
    same = made.codes.T.shape == there.shape
    share = float(np.mean(there == made.codes.T)) if same else 0.0
    if share < _LEAST_EQUAL:
        yield (
            f"chapter {chapter.chapter_id}: encoded again, {share:.1%} of its codes are those of "
            "the cache; its audio has changed, or another Mimi made them"
        )
    else:
        print(f"encoded again: {chapter.chapter_id}, {share:.2%} of its codes are the same")
