"""A sound as bytes: of a file or in memory, and with others in between, as a file."""

from __future__ import annotations

import io
import mmap
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

Splice = tuple[bytes | tuple[int, int], ...]
"""Pieces one after the other: bytes, or [start, stop) of the file."""


@dataclass(frozen=True, eq=False)
class SoundBytes:
    """A sound file in memory, where it was a part of another file or came from a store."""

    name: str
    """For sentences; its suffix counts as a file's does."""
    content: bytes

    def __str__(self) -> str:
        return self.name


Sound = str | Path | SoundBytes
"""A sound file: where it lies, or what it holds."""


def open_sound(sound: Sound) -> BinaryIO:
    """The bytes of a sound as a file. Raises OSError."""
    return io.BytesIO(sound.content) if isinstance(sound, SoundBytes) else open(sound, "rb")


class Damaged(Exception):
    """A file promises what it does not hold, or the reverse; the text says it in words."""


class Window:
    """The bytes of a file, read where they are looked at."""

    def __init__(self, sound: Sound) -> None:
        self._close: list[mmap.mmap | BinaryIO] = []
        if isinstance(sound, SoundBytes):
            self._map = sound.content
            return
        file = open_sound(sound)
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._close = [self._map, file]

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for each in self._close:
            each.close()

    def __len__(self) -> int:
        return len(self._map)

    def __getitem__(self, span: slice) -> bytes:
        return self._map[span]

    def find(self, wanted: bytes, start: int) -> int:
        """Where `wanted` begins at or after `start`; -1 when it does not."""
        return self._map.find(wanted, start)

    def rfind(self, wanted: bytes, start: int, stop: int) -> int:
        """Where `wanted` last begins inside [start, stop); -1 when it does not."""
        return self._map.rfind(wanted, start, stop)

    def starts_with(self, magic: bytes) -> bool:
        """Whether these are the first bytes."""
        return self._map[: len(magic)] == magic


class SplicedFile(io.RawIOBase):
    """A file to read that consists of a splice."""

    def __init__(self, sound: Sound, splice: Splice) -> None:
        super().__init__()
        self._file = open_sound(sound)
        self._pieces: list[tuple[int, int, bytes | int]] = []
        self._size = 0
        for piece in splice:
            length = len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]
            content = piece if isinstance(piece, bytes) else piece[0]
            self._pieces.append((self._size, self._size + length, content))
            self._size += length
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._size, self._place + size)
        out = []
        for begin, end, content in self._pieces:
            first, last = max(begin, self._place), min(end, stop)
            if first < last and isinstance(content, bytes):
                out.append(content[first - begin : last - begin])
            elif first < last:
                assert isinstance(content, int)
                self._file.seek(content + first - begin)
                out.append(self._file.read(last - first))
        joined = b"".join(out)
        self._place += len(joined)
        return joined

    def readinto(self, buffer: bytearray | memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        content = self.read(len(buffer))
        memoryview(buffer)[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()
