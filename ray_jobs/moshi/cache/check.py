"""`--verify`: a cache of chapters read whole, and a few of its chapters encoded, or made, anew."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from ray_jobs.config.load import load_config
from ray_jobs.moshi.cache.config import CacheChaptersConfig
from ray_jobs.moshi.cache.plan import list_inputs
from ray_jobs.moshi.synthetic import synthetic_chapters
from ttt import storage
from ttt.errors import UserError
from ttt.moshi.chapter_cache.inputs import ChapterInput
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.moshi.chapter_cache.verify import verify_cache
from ttt.moshi.codes import encode_recording
from ttt.moshi.load import load_mimi
from ttt.numerics import exact_float32

Sampled = TypeVar("Sampled")

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
    if config.synthetic is not None:
        found.require_synthetic(config.synthetic.language)
        made = [each for each in synthetic_chapters(config.synthetic) if each.chapter_id in rows]
        for each in _sample(made):
            yield from _differs(found, rows[each.chapter_id], each.codes(), least=1.0)
        return
    there = [each for each in inputs if each.chapter_id in rows and each.problem is None]
    threads = torch.get_num_threads()
    if found.codes.device == "cpu":
        torch.set_num_threads(1)
    try:
        with exact_float32():
            assert config.mimi is not None  # The configuration has it or synthetic chapters.
            mimi = load_mimi(config.mimi, device=found.codes.device)
            found.require_mimi(mimi.name, mimi.weights_sha256)
            for each in _sample(there):
                codes = encode_recording(
                    mimi.mimi, each.chapter_id, each.pieces, None, mimi.weights_sha256
                ).codes
                yield from _differs(found, rows[each.chapter_id], codes, least=_LEAST_EQUAL)
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
        return config, list_inputs(config)
    except UserError as error:
        return str(error)


def _sample(chapters: Sequence[Sampled]) -> list[Sampled]:
    return random.Random(0).sample(chapters, min(_SAMPLED, len(chapters)))


def _differs(found: ChapterCache, row: int, codes: np.ndarray, *, least: float) -> Iterator[str]:
    """A sentence where a chapter is less like `codes` [8, T] than `least`; else say how alike."""
    name = found.chapters[row].chapter_id
    there = found.read(row, 0, found.chapters[row].n_frames)
    share = float(np.mean(there == codes.T)) if codes.T.shape == there.shape else 0.0
    if share < least:
        yield (
            f"chapter {name}: encoded again, {share:.1%} of its codes are those of the cache; its "
            "audio or the configuration beside it has changed, or another program made them"
        )
    else:
        print(f"encoded again: {name}, {share:.2%} of its codes are the same")
