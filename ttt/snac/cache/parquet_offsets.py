"""Where in a parquet file the values of a binary column lie, so that a part of one can be read.

An uncompressed PLAIN value of a column that cannot be null is stored as a 4-byte little-endian
length and the bytes themselves, one value after the other. With one data page per row group the
place of every value follows from the file's footer and the values' lengths; nothing is searched.
Source: the Parquet format, Encodings.md (PLAIN, BYTE_ARRAY) and the thrift definition.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow.parquet as pq

PREFIX_BYTES = 4
"""Bytes of the length that stands before a value."""

NO_OFFSET = -1
"""Instead of an offset: the value is not contiguous in the file; read its row group."""


def value_offsets(
    metadata: pq.FileMetaData,
    column: str,
    value_bytes: np.ndarray,
    read_at: Callable[[int, int], bytes],
    check_every: int = 1,
) -> np.ndarray:
    """The byte offset of every value of `column`; int64 [rows], NO_OFFSET where there is none.

    `value_bytes` [rows] are the lengths of the values, `read_at(offset, count)` reads the file.
    Every `check_every`-th offset of a row group, and its last, is checked against the length
    stored before the value.
    """
    index = metadata.schema.names.index(column)
    offsets = np.full(metadata.num_rows, NO_OFFSET, np.int64)
    row = 0
    for group in range(metadata.num_row_groups):
        group_metadata = metadata.row_group(group)
        rows = slice(row, row + group_metadata.num_rows)
        row = rows.stop
        chunk = group_metadata.column(index)
        if chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page:
            offsets[rows] = _offsets_in_chunk(chunk, value_bytes[rows], read_at, check_every)
    return offsets


def length_prefix(value_bytes: int) -> bytes:
    """The bytes that stand before a value of this length."""
    return int(value_bytes).to_bytes(PREFIX_BYTES, "little")


def _offsets_in_chunk(
    chunk: pq.ColumnChunkMetaData,
    value_bytes: np.ndarray,
    read_at: Callable[[int, int], bytes],
    check_every: int,
) -> np.ndarray | int:
    ends = np.cumsum(value_bytes.astype(np.int64) + PREFIX_BYTES)
    header_bytes = chunk.total_compressed_size - int(ends[-1])
    if header_bytes <= 0:
        return NO_OFFSET
    offsets = chunk.data_page_offset + header_bytes + ends - value_bytes
    last = len(offsets) - 1
    for value in {*range(0, last, check_every), last}:
        stored = read_at(int(offsets[value]) - PREFIX_BYTES, PREFIX_BYTES)
        if stored != length_prefix(value_bytes[value]):
            return NO_OFFSET
    return offsets
