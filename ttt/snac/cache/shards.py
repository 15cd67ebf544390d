"""A cache of codes on disk: parquet shards, and the index beside them.

A cache folder holds
    shards/shard-00000.parquet ...   the truth: about 1,000 clips each (ttt.snac.cache.shard_file)
    index.arrow, codes.bin           derived: where each clip's audio lies, and all codes together

Row i of index.arrow is clip i of the cache. codes.bin holds the codes of all clips one after the
other as int16 [sum of n_coarse, codes_per_coarse], interleaved by scale: they are a thousandth of
the audio and are read on every window. Both files can be rebuilt from the shards at any time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ttt import storage
from ttt.errors import UserError
from ttt.files.indexes import write_index
from ttt.files.parquets import open_parquet, whole_file
from ttt.files.ranged import NO_OFFSET, open_ranged, read_at, value_offsets
from ttt.files.shards import index_uri, names_of_shards, shards_folder
from ttt.snac.cache.shard_file import (
    FACT_COLUMNS,
    SAMPLE_BYTES,
    Clip,
    CodecIdentity,
    ShardHeader,
    checked_header,
    code_columns,
    facts_in,
    interleaved_codes,
    read_shard_table,
    shard_schema,
    write_shard,
)
from ttt.snac.geometry import CodeGeometry

JOB = "ray_jobs.cache_codes"
"""What writes such caches, for sentences."""

__all__ = [
    "JOB",
    "Clip",
    "CodecIdentity",
    "build_index",
    "codes_uri",
    "index_uri",
    "read_catalogue",
    "read_shard_table",
    "shard_names",
    "shards_folder",
    "write_shard",
]


class ByteSink(Protocol):
    """Where codes are written, or what compares them."""

    def write(self, content: bytes, /) -> object: ...


def build_index(cache_uri: str | Path) -> None:
    """Derive index.arrow and codes.bin from the shards; the same shards give the same bytes.

    The old index goes first and the new one comes last, so that an index never stands beside
    another's codes. Raises UserError for a shard that is damaged, or of another geometry or codec
    than the first.
    """
    storage.delete(index_uri(cache_uri))
    with whole_file(codes_uri(cache_uri)) as sink:
        catalogue = read_catalogue(cache_uri, codes_sink=sink)
    write_index(cache_uri, catalogue)


def read_catalogue(cache_uri: str | Path, codes_sink: ByteSink | None = None) -> pa.Table:
    """What index.arrow holds, read from the shards: one row per clip, in one chunk.

    Columns: clip_id, shard (number), row (in the shard), audio_offset (bytes), n_coarse,
    n_samples, codes_offset (coarsest tokens before this clip), and those of FACT_COLUMNS that tell
    something of at least one clip. The metadata are a shard's and `ttt.shards`, the list of
    [name, bytes]. With a `codes_sink` all codes are written to it and
    the audio is located; without, and in compressed shards, audio_offset is -1.
    """
    header: ShardHeader | None = None
    tables, shards = [], []
    for number, name in enumerate(shard_names(cache_uri)):
        uri = storage.join(shards_folder(cache_uri), name)
        with open_parquet(uri) as shard:
            this_header = checked_header(shard.schema_arrow, uri)
            header = header or this_header
            if this_header != header:
                raise UserError(
                    f"{uri}: its geometry or codec differs from {shards[0][0]}'s; a cache holds "
                    "one codec's codes, so move it to a cache of its own"
                )
            table, codes = _shard_catalogue(
                shard, number, this_header.geometry, uri, located=codes_sink is not None
            )
        if codes_sink is not None:
            codes_sink.write(codes.astype("<i2").tobytes())
        tables.append(table)
        shards.append([name, storage.file_bytes(uri)])
    assert header is not None  # shard_names raises when there is none
    joined = pa.concat_tables(tables)
    n_coarse = joined["n_coarse"].to_numpy().astype(np.int64)
    table = joined.drop_columns(list(FACT_COLUMNS))
    table = table.append_column("codes_offset", pa.array(np.cumsum(n_coarse) - n_coarse))
    for name in FACT_COLUMNS:
        if joined[name].null_count < len(joined):
            table = table.append_column(name, joined[name])
    metadata = {**(shard_schema(header).metadata or {}), b"ttt.shards": json.dumps(shards).encode()}
    return table.combine_chunks().replace_schema_metadata(metadata)


def shard_names(cache_uri: str | Path) -> list[str]:
    """Names of a cache's shards in order. Raises UserError when there is none, or no cache."""
    return names_of_shards(cache_uri, JOB)


def codes_uri(cache_uri: str | Path) -> str:
    """Where a cache's codes are, all together."""
    return storage.join(cache_uri, "codes.bin")


def _shard_catalogue(
    shard: pq.ParquetFile, number: int, geometry: CodeGeometry, uri: str, *, located: bool
) -> tuple[pa.Table, np.ndarray]:
    """A shard's part of the catalogue, and its codes interleaved (none when not `located`)."""
    columns = ["clip_id", "n_coarse", "n_samples", *facts_in(shard.schema_arrow)]
    table = shard.read([*columns, *code_columns(geometry)] if located else columns)
    n_coarse = table["n_coarse"].to_numpy().astype(np.int64)
    offsets = np.full(len(n_coarse), NO_OFFSET, np.int64)
    codes = np.empty((0, geometry.codes_per_coarse), np.int16)
    if located:
        try:
            codes = interleaved_codes(table, geometry)
        except ValueError as error:
            raise UserError(f"{uri}: {error}") from error
        audio_bytes = geometry.samples_48k(n_coarse) * SAMPLE_BYTES
        file = open_ranged(uri)
        # Over a network one request per clip is too slow; the reader checks each anyway.
        offsets = value_offsets(
            shard.metadata,
            "audio",
            audio_bytes,
            read_at=lambda offset, count: read_at(file, offset, count),
            check_every=1 if storage.is_local(uri) else 64,
        )
    catalogue = pa.table(
        {
            "clip_id": table["clip_id"],
            "shard": pa.array(np.full(len(n_coarse), number, np.int32)),
            "row": pa.array(np.arange(len(n_coarse), dtype=np.int32)),
            "audio_offset": pa.array(offsets),
            "n_coarse": table["n_coarse"],
            "n_samples": table["n_samples"],
            **{
                name: table[name] if name in table.schema.names else pa.nulls(len(table), kind)
                for name, kind in FACT_COLUMNS.items()
            },
        }
    )
    return catalogue, codes
