"""A sound file as the streams it holds, each of which libsndfile reads to its true end."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import soundfile

from ttt.errors import UserError
from ttt.sound import containers, flac, mp3
from ttt.sound.splice import Damaged, Splice, SplicedFile, Window


class Part:
    """One stream of a file."""

    def __init__(self, path: str, splice: Splice | None) -> None:
        self._path = path
        self._splice = splice

    @contextmanager
    def open(self) -> Iterator[soundfile.SoundFile]:
        """Opened by libsndfile. Raises soundfile.LibsndfileError or OSError."""
        if self._splice is None:
            with soundfile.SoundFile(self._path) as file:
                yield file
            return
        with (
            SplicedFile(self._path, self._splice) as spliced,
            soundfile.SoundFile(cast(BinaryIO, spliced)) as file,
        ):
            yield file


def parts(path: str | Path) -> list[Part]:
    """The streams of a file, in order; together they are all of its audio.

    Reads headers, and more only of formats whose headers cannot be trusted: all of an MP3 file
    that does not tell its length, or of an Ogg file. Raises UserError for a file that is shorter
    than it promises, or longer in a way that cannot be read; OSError when it cannot be opened.
    """
    name = os.fspath(path)
    stat = os.stat(name)
    try:
        splices = _splices(name, stat.st_size, stat.st_ino)
    except Damaged as damage:
        raise UserError(f"{path}: {damage}") from damage
    return [Part(name, splice) for splice in splices]


def require_one_stream(path: str | Path) -> None:
    """Raises UserError for a FLAC file that goes on after its end; reads the whole file."""
    with Window(os.fspath(path)) as window:
        if window.starts_with(flac.MAGIC) and flac.holds_another(window):
            raise UserError(
                f"{path}: holds several FLAC files one after the other, of which only the first "
                "would be read; split it, or decode and encode it again"
            )


@functools.lru_cache(maxsize=64)
def _splices(path: str, size: int, inode: int) -> tuple[Splice | None, ...]:
    """What to hand to libsndfile; None is the file as it is. Size and inode tell files apart."""
    if size == 0:
        return (None,)
    with Window(path) as window:
        return tuple(_reader(window, path)(window))


def _reader(window: Window, path: str) -> Callable[[Window], list[Splice | None]]:
    magic = window[:4]
    if magic == flac.MAGIC:
        return flac.splices
    if magic in containers.CHUNK_MAGICS:
        return containers.chunk_splices
    if magic == containers.OGG_MAGIC:
        return containers.ogg_splices
    if magic == containers.SPHERE_MAGIC:
        return containers.sphere_splices
    if os.path.splitext(path)[1].lower() in mp3.SUFFIXES or mp3.begins(window):
        return mp3.splices
    return lambda _: [None]
