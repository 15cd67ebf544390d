"""The index of a cache of chapters: where in which shard the codes and the text of each lie."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ttt import storage
from ttt.errors import UserError
from ttt.files.indexes import read_index, refuse_stale, write_index
from ttt.files.parquets import open_parquet, refuse_wrong_columns
from ttt.files.ranged import NO_OFFSET, open_ranged, read_at, value_offsets
from ttt.files.shards import index_uri, names_of_shards, shards_folder
from ttt.moshi.chapter_cache.shard_file import (
    ShardHeader,
    bytes_of,
    checked_header,
    shard_header,
    shard_schema,
)

JOB = "ray_jobs.cache_chapters"
"""What writes such caches, for sentences."""


def build_index(cache_uri: str | Path) -> None:
    """Derive index.arrow from the shards; the same shards give the same bytes.

    Raises UserError for a shard that is damaged, compressed by another program, or of another Mimi
    or base model than the first.
    """
    write_index(cache_uri, read_catalogue(cache_uri))


def read_catalogue(cache_uri: str | Path) -> pa.Table:
    """What index.arrow holds, read from the shards: one row per chapter, in one chunk.

    A shard's columns but for codes and text themselves, and shard (number), row (in the shard),
    codes_offset and text_offset (bytes). The metadata are a shard's and `ttt.shards`, the list of
    [name, bytes].
    """
    header: ShardHeader | None = None
    tables, shards = [], []
    for number, name in enumerate(names_of_shards(cache_uri, JOB)):
        uri = storage.join(shards_folder(cache_uri), name)
        with open_parquet(uri) as shard:
            this_header = checked_header(shard.schema_arrow, uri)
            header = header or this_header
            if this_header != header:
                raise UserError(
                    f"{uri}: its Mimi or base model differs from {shards[0][0]}'s; a cache holds "
                    "one Mimi's codes, so move it to a cache of its own"
                )
            tables.append(_shard_catalogue(shard, number, this_header, uri))
        shards.append([name, storage.file_bytes(uri)])
    assert header is not None  # names_of_shards raises when there is none
    metadata = {**(shard_schema(header).metadata or {}), b"ttt.shards": json.dumps(shards).encode()}
    return pa.concat_tables(tables).combine_chunks().replace_schema_metadata(metadata)


def load_index(cache_uri: str | Path) -> pa.Table:
    """The index, mapped into memory when it is local.

    Raises UserError when there is no cache, or its index is missing, damaged, stale or of another
    format.
    """
    uri = index_uri(cache_uri)
    names = names_of_shards(cache_uri, JOB)
    if not storage.exists(uri):
        raise UserError(
            f"{cache_uri}: has no index.arrow, so it is not finished; run its {JOB} again, which "
            "encodes only what is missing"
        )
    mend = f"run {JOB} again"
    table = read_index(cache_uri, mend)
    refuse_wrong_columns(table.schema, _index_schema(shard_header(table.schema, uri)), uri)
    refuse_stale(cache_uri, table, names, mend)
    return table


def _index_schema(header: ShardHeader) -> dict[str, pa.DataType]:
    values = ("codes",) if header.text is None else ("codes", "text")
    kinds = {field.name: field.type for field in shard_schema(header) if field.name not in values}
    offsets = {f"{name}_offset": pa.int64() for name in values}
    return {"shard": pa.int32(), "row": pa.int32(), **kinds, **offsets}


def _shard_catalogue(shard: pq.ParquetFile, number: int, header: ShardHeader, uri: str) -> pa.Table:
    wanted = _index_schema(header)
    table = shard.read([name for name in wanted if name in shard.schema_arrow.names])
    frames, file = table["n_frames"].to_numpy(), open_ranged(uri)
    columns = {name: table[name] for name in table.schema.names}
    columns["shard"] = pa.array(np.full(len(table), number, np.int32))
    columns["row"] = pa.array(np.arange(len(table), dtype=np.int32))
    for name in ("codes",) if header.text is None else ("codes", "text"):
        offsets = value_offsets(
            shard.metadata,
            name,
            bytes_of(frames, header, name),
            read_at=lambda offset, count: read_at(file, offset, count),
            check_every=1 if storage.is_local(uri) else 64,
        )
        if (offsets == NO_OFFSET).any():
            raise UserError(
                f"{uri}: its {name} are not where n_frames puts them (another program has written "
                f"or compressed it); cache again with {JOB}"
            )
        columns[f"{name}_offset"] = pa.array(offsets)
    return pa.table({name: columns[name] for name in wanted})
