"""Whether a cache of chapters is sound: everything in it is read, and what is broken is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ttt import retries
from ttt.errors import UserError
from ttt.files.verify import broken_shards
from ttt.moshi.chapter_cache.index import JOB, load_index, read_catalogue
from ttt.moshi.chapter_cache.shard_file import (
    CODE_TYPE,
    TEXT_TYPE,
    ShardHeader,
    bytes_of,
    checked_header,
    outside,
    sha256_of,
)
from ttt.moshi.chapter_cache.write_shard import check_manifest


def verify_cache(cache_uri: str | Path) -> list[str]:
    """Read a whole cache and say in one sentence each what is broken; empty when nothing is.

    Checks every shard's readability, columns, lengths, ranges of codes and text, joins, digests and
    ids that occur twice; when the shards are sound, the index and the manifest against them.
    """
    shard_of: dict[str, str] = {}

    def broken(shard: pq.ParquetFile, header: ShardHeader, name: str) -> Iterator[str]:
        for group in range(shard.num_row_groups):
            yield from _broken_chapters(shard.read_row_group(group), header, name, shard_of)

    problems = broken_shards(cache_uri, JOB, checked_header, "its Mimi or base model", broken)
    return problems or [*_broken_index(cache_uri), *check_manifest(cache_uri)]


def _broken_chapters(
    table: pa.Table, header: ShardHeader, shard: str, shard_of: dict[str, str]
) -> Iterator[str]:
    """What is broken in a row group; notes each chapter id in `shard_of`."""
    kinds: list[tuple[str, np.dtype, int]] = [("codes", CODE_TYPE, header.codes.card)]
    if header.text is not None:
        kinds.append(("text", TEXT_TYPE, header.text.card))
    for row in range(len(table)):
        name, frames = table["chapter_id"][row].as_py(), table["n_frames"][row].as_py()
        for column, kind, card in kinds:
            value = table[column][row].as_buffer()
            wanted = int(bytes_of(np.array([frames]), header, column)[0])
            if value.size != wanted or not frames:
                yield f"chapter {name}: {value.size} bytes of {column}, and n_frames is {frames}"
            elif sha256_of(value) != table[f"{column}_sha256"][row].as_py():
                yield f"chapter {name}: the digest of its {column} differs, they were changed"
            elif problem := outside(np.frombuffer(value, kind), card):
                yield f"chapter {name}: its {column} {problem}"
        joins = table["joins"][row].as_py()
        if joins != sorted({join for join in joins if 0 <= join < frames}):
            yield f"chapter {name}: joins {joins} do not rise from 0 to below {frames}"
        if name in shard_of:
            yield f"chapter {name}: the same id is in {shard_of[name]}"
        shard_of[name] = shard


def _broken_index(cache_uri: str | Path) -> list[str]:
    """What of the index differs from what the (sound) shards give."""
    try:
        index = load_index(cache_uri)
        if index.equals(read_catalogue(cache_uri), check_metadata=True):
            return []
    except retries.StorageUnavailable:
        raise
    except UserError as error:
        return [str(error)]
    return [f"{cache_uri}: index.arrow differs from what the shards hold; run {JOB} again"]
