"""Small caches of codes for tests: impulse trains whose every sample and code can be named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ttt import storage
from ttt.snac.cache.shards import Clip, CodecIdentity, build_index, shards_folder, write_shard
from ttt.snac.geometry import CodeGeometry

GEOMETRY = CodeGeometry.preset("snac_24khz")
CODEC = CodecIdentity("impulses", "0" * 64)


def impulse_clip(number: int, n_coarse: int, missing_samples: int = 100) -> Clip:
    """A clip of zeros with the impulse `label(number, t)` at the start of coarsest token t.

    Code i of scale k is i: the code says which slot of time it is. The last `missing_samples` of
    the codes' time hold no real audio.
    """
    audio = np.zeros(GEOMETRY.samples_48k(n_coarse), np.int16)
    audio[:: GEOMETRY.coarse_samples_48k] = [label(number, t) for t in range(n_coarse)]
    codes = tuple(np.arange(length, dtype=np.int16) for length in GEOMETRY.lengths(n_coarse))
    audio = audio[: len(audio) - missing_samples]
    return Clip(f"speaker/{number:04d}", codes, audio, len(audio), gain_db=0.5, lag_samples=3)


def label(number: int, token: int) -> int:
    return 1 + number * 60 + token


def write_impulse_cache(
    uri: str | Path, shard_lengths: Sequence[Sequence[int]], *, index: bool = True
) -> str:
    """A cache with a shard per sequence of clip lengths (in coarsest tokens)."""
    number = 0
    for shard, lengths in enumerate(shard_lengths):
        clips = []
        for n_coarse in lengths:
            clips.append(impulse_clip(number, n_coarse))
            number += 1
        write_shard(
            storage.join(shards_folder(uri), f"shard-{shard:05d}.parquet"), clips, GEOMETRY, CODEC
        )
    if index:
        build_index(uri)
    return str(uri)
