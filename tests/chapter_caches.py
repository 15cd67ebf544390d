"""Caches of chapters of random codes, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ttt.files.shards import shard_uri
from ttt.moshi.chapter_cache.index import build_index
from ttt.moshi.chapter_cache.shard_file import (
    CodedChapter,
    CodesIdentity,
    ShardHeader,
    TextIdentity,
    write_shard,
)

MIMI = CodesIdentity(
    name="nano", weights_sha256="a" * 64, device="cpu", precision="float32", card=64
)
TEXT = TextIdentity(
    name="base", fingerprint="b" * 16, weights_sha256=None, dtype="float32", device="cpu",
    context=32, other="masked", voice="moshi", chunk=16, card=48,
)  # fmt: skip


def chapter(number: int, frames: int, *, text: bool = False, card: int = 64) -> CodedChapter:
    """A chapter of random codes by the speaker number % 3."""
    rng = np.random.default_rng(number)
    return CodedChapter(
        chapter_id=f"{number % 3}/book/{number}",
        speaker=str(number % 3),
        book="book",
        codes=rng.integers(0, card, (frames, 8)).astype(np.int16),
        seconds=frames / 12.5,
        joins=(frames // 2,) if frames > 1 else (),
        text=rng.integers(0, 48, frames).astype(np.int32) if text else None,
    )


def write_cache(
    folder: str | Path,
    lengths: Sequence[int],
    *,
    per_shard: int = 4,
    text: bool = False,
    codes: CodesIdentity = MIMI,
) -> list[CodedChapter]:
    """Write chapters of these lengths as a cache; returns them."""
    chapters = [chapter(number, frames, text=text) for number, frames in enumerate(lengths)]
    header = ShardHeader(codes, TEXT if text else None)
    for shard in range(-(-len(chapters) // per_shard)):
        some = chapters[shard * per_shard : (shard + 1) * per_shard]
        write_shard(shard_uri(folder, shard), some, header)
    build_index(folder)
    return chapters
