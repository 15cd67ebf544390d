"""Files of which parts are read at random: by pread locally, by ranged requests elsewhere.

Every ranged request is repeated while the object store errs (`ttt.retries.patiently`).
"""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, cast

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ttt import retries, storage


class RangedFile(Protocol):
    """An open file that several threads may read at once."""

    def read_into(self, offset: int, out: np.ndarray) -> int:
        """Fill `out` (contiguous) from byte `offset`; returns the bytes read.

        Raises OSError. Fewer bytes than `out` holds means that the file ends there.
        """
        ...


def open_ranged(uri: str) -> RangedFile:
    """Open a file for random reads.

    Raises OSError (FileNotFoundError when it is missing), StorageUnavailable.
    """
    if storage.is_local(uri):
        return _LocalFile(str(storage.local_path(uri)))
    filesystem, path = storage.resolve(uri)
    if isinstance(filesystem, pafs.PyFileSystem):
        return _FsspecFile(uri, filesystem.handler.fs, path)
    return _ArrowFile(uri, filesystem, path)


def open_seekable(uri: str) -> io.RawIOBase | pa.OSFile:
    """A file as readers of parquet want it. Raises what `open_ranged` raises."""
    if storage.is_local(uri):
        return pa.OSFile(str(storage.local_path(uri)))
    return _Seekable(open_ranged(uri), storage.file_bytes(uri) or 0)


def read_at(file: RangedFile, offset: int, count: int) -> bytes:
    """At most `count` bytes from `offset`. Raises what `read_into` raises."""
    out = np.empty(count, np.uint8)
    return out[: file.read_into(offset, out)].tobytes()


class OpenFiles:
    """Files kept open by number, the least recently used closed beyond `limit`."""

    def __init__(self, uri_of: Callable[[int], str], limit: int = 512) -> None:
        self._uri_of = uri_of
        self._limit = limit
        self._files: OrderedDict[int, RangedFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, number: int) -> RangedFile:
        """The open file. Raises OSError. A file dropped meanwhile stays open for its holder."""
        with self._lock:
            file = self._files.get(number)
            if file is None:
                file = self._files[number] = open_ranged(self._uri_of(number))
                if len(self._files) > self._limit:
                    self._files.popitem(last=False)
            else:
                self._files.move_to_end(number)
            return file


class _LocalFile:
    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def read_into(self, offset: int, out: np.ndarray) -> int:
        return os.preadv(self._descriptor, [out.data], offset)

    def __del__(self) -> None:
        # Closing only with the last reference: a reader in another thread may still hold it.
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class _ArrowFile:
    def __init__(self, uri: str, filesystem: pafs.FileSystem, path: str) -> None:
        self._uri = uri
        self._file = retries.patiently(uri, lambda: filesystem.open_input_file(path))

    def read_into(self, offset: int, out: np.ndarray) -> int:
        return _fill(
            out, retries.patiently(self._uri, lambda: self._file.read_at(out.nbytes, offset))
        )


class _FsspecFile:
    """fsspec's open files read ahead by megabytes and keep a position; cat_file does neither."""

    def __init__(self, uri: str, filesystem: fsspec.AbstractFileSystem, path: str) -> None:
        self._uri = uri
        self._filesystem = filesystem
        self._path = path
        if not retries.patiently(uri, lambda: filesystem.exists(path)):
            raise FileNotFoundError(path)

    def read_into(self, offset: int, out: np.ndarray) -> int:
        end = offset + out.nbytes
        content = retries.patiently(
            self._uri, lambda: self._filesystem.cat_file(self._path, start=offset, end=end)
        )
        return _fill(out, cast(bytes, content))


class _Seekable(io.RawIOBase):
    """A ranged file with a position."""

    def __init__(self, file: RangedFile, size: int) -> None:
        self._file = file
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(self._size - self._position, 0)
        count = left if size < 0 else min(size, left)
        content = read_at(self._file, self._position, count) if count else b""
        self._position += len(content)
        return content

    def readinto(self, buffer: bytearray | memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        content = self.read(len(buffer))
        memoryview(buffer)[: len(content)] = content
        return len(content)


def _fill(out: np.ndarray, content: bytes) -> int:
    out.reshape(-1).view(np.uint8)[: len(content)] = np.frombuffer(content, np.uint8)
    return len(content)


PREFIX_BYTES = 4
"""Bytes of the length that stands before a value."""

NO_OFFSET = -1
"""Instead of an offset: the value is not contiguous in the file."""


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
