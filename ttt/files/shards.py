"""A cache folder as all caches lay it out: shards, and beside each the lines of its inputs.

shards/shard-00000.parquet ...   what was cached
shards/shard-00000.jsonl ...     one line per input of the shard, written last: its commit point
index.arrow                      derived from the shards
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ttt import storage
from ttt.errors import UserError
from ttt.files.walk import is_hidden, suffix_of


def names_of_shards(cache_uri: str | Path, job: str) -> list[str]:
    """Names of a cache's shards in order.

    Raises UserError when there is none, or no cache; `job` is the one that writes such caches.
    """
    folder = shards_folder(cache_uri)
    names = [name for name in storage.list_names(folder) if suffix_of(name) == ".parquet"]
    names = [name for name in names if not is_hidden(name)]
    if not names and not storage.exists(cache_uri):
        raise UserError(f"{cache_uri}: no such cache; write it with {job}")
    if not names:
        raise UserError(f"{folder}: holds no .parquet shard; write them with {job}")
    return names


def shards_folder(cache_uri: str | Path) -> str:
    """Where a cache's shards are."""
    return storage.join(cache_uri, "shards")


def index_uri(cache_uri: str | Path) -> str:
    """Where a cache's index is."""
    return storage.join(cache_uri, "index.arrow")


def shard_uri(cache_uri: str | Path, number: int) -> str:
    """Where what a shard holds is."""
    return storage.join(shards_folder(cache_uri), f"shard-{number:05d}.parquet")


def part_uri(cache_uri: str | Path, number: int) -> str:
    """Where a shard's lines of the manifest are."""
    return storage.join(shards_folder(cache_uri), f"shard-{number:05d}.jsonl")


def read_part(cache_uri: str | Path, number: int) -> list[dict[str, Any]]:
    """The lines of the manifest that a shard wrote."""
    return [
        json.loads(line) for line in storage.read_bytes(part_uri(cache_uri, number)).splitlines()
    ]


def line_text(line: dict[str, Any]) -> str:
    """A line of a manifest as it is written."""
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"


def refuse_other_size(part: str, place: str, before: int | None, size: int | None) -> None:
    """Raise UserError where an input has another size (None: is missing) than `part` noted."""
    if before is None or size == before:
        return
    now = "is missing" if size is None else f"has {size:,} bytes"
    raise UserError(
        f"{place}: {now} and had {before:,} when {part} was written; bring the old audio back, "
        f"choose another output, or delete {part} to have its "
        f"{storage.name(part).removesuffix('.jsonl')} cached again"
    )
