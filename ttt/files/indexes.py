"""The index.arrow of a cache folder: what its shards know but their values, one row per item.

It is derived from the shards, read at once and mapped into memory when it is local.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa

from ttt import storage
from ttt.errors import UserError
from ttt.files.errors import reading_column_types
from ttt.files.parquets import whole_file
from ttt.files.shards import index_uri


def write_index(cache_uri: str | Path, table: pa.Table) -> None:
    """Write a cache's index, whole or not at all; the same table gives the same bytes."""
    with (
        whole_file(index_uri(cache_uri)) as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)


def read_index(cache_uri: str | Path, mend: str) -> pa.Table:
    """A cache's index, of which nothing is copied when it is local.

    Raises UserError when it is missing or damaged; `mend` says what to do then.
    """
    uri = index_uri(cache_uri)
    try:
        if storage.is_local(uri):
            source = pa.memory_map(str(storage.local_path(uri)))
        else:
            source = pa.BufferReader(storage.read_bytes(uri))
        with reading_column_types():
            return pa.ipc.open_file(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{uri}: damaged ({error}); {mend}") from error


def refuse_stale(
    cache_uri: str | Path, table: pa.Table, shards: Collection[str], mend: str
) -> None:
    """Raise UserError where the cache has shards that its index does not know."""
    known = {name for name, _ in json.loads((table.schema.metadata or {})[b"ttt.shards"])}
    if new := set(shards) - known:
        uri = index_uri(cache_uri)
        raise UserError(f"{uri}: does not know {min(new)}, it is stale; {mend}")
