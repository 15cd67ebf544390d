"""Files of which parts are read at random: by pread locally, by ranged requests elsewhere."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, cast

import fsspec
import numpy as np
import pyarrow.fs as pafs

from ttt import storage


class RangedFile(Protocol):
    """An open file that several threads may read at once."""

    def read_into(self, offset: int, out: np.ndarray) -> int:
        """Fill `out` (contiguous) from byte `offset`; returns the bytes read.

        Raises OSError. Fewer bytes than `out` holds means that the file ends there.
        """
        ...


def open_ranged(uri: str) -> RangedFile:
    """Open a file for random reads. Raises OSError (FileNotFoundError when it is missing)."""
    if storage.is_local(uri):
        return _LocalFile(str(storage.local_path(uri)))
    filesystem, path = storage.resolve(uri)
    if isinstance(filesystem, pafs.PyFileSystem):
        return _FsspecFile(filesystem.handler.fs, path)
    return _ArrowFile(filesystem, path)


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
    def __init__(self, filesystem: pafs.FileSystem, path: str) -> None:
        self._file = filesystem.open_input_file(path)

    def read_into(self, offset: int, out: np.ndarray) -> int:
        return _fill(out, self._file.read_at(out.nbytes, offset))


class _FsspecFile:
    """fsspec's open files read ahead by megabytes and keep a position; cat_file does neither."""

    def __init__(self, filesystem: fsspec.AbstractFileSystem, path: str) -> None:
        self._filesystem = filesystem
        self._path = path
        if not filesystem.exists(path):
            raise FileNotFoundError(path)

    def read_into(self, offset: int, out: np.ndarray) -> int:
        content = self._filesystem.cat_file(self._path, start=offset, end=offset + out.nbytes)
        return _fill(out, cast(bytes, content))


def _fill(out: np.ndarray, content: bytes) -> int:
    out.reshape(-1).view(np.uint8)[: len(content)] = np.frombuffer(content, np.uint8)
    return len(content)
