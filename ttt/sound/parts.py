"""A sound file as the streams it holds, each of which libsndfile reads to its true end."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import soundfile

from ttt.errors import UserError
from ttt.sound import containers, flac, mp3
from ttt.sound.splice import Damaged, Sound, SoundBytes, Splice, SplicedFile, Window, open_sound


class Part:
    """One stream of a file."""

    def __init__(self, sound: Sound, splice: Splice | None) -> None:
        self._sound = sound
        self._splice = splice

    @contextmanager
    def open(self) -> Iterator[soundfile.SoundFile]:
        """Opened by libsndfile. Raises soundfile.LibsndfileError or OSError."""
        if self._splice is None and not isinstance(self._sound, SoundBytes):
            with soundfile.SoundFile(os.fspath(self._sound)) as file:
                yield file
            return
        splice = self._splice
        with (
            open_sound(self._sound) if splice is None else SplicedFile(self._sound, splice) as raw,
            soundfile.SoundFile(cast(BinaryIO, raw)) as file,
        ):
            yield file


def parts(sound: Sound) -> list[Part]:
    """The streams of a sound file, in order; together they are all of its audio.

    Reads headers, and more only of formats whose headers cannot be trusted: all of an MP3 file
    that does not tell its length, or of an Ogg file. Raises UserError for a file that is shorter
    than it promises, or longer in a way that cannot be read; OSError when it cannot be opened.
    """
    try:
        if isinstance(sound, SoundBytes):
            splices = _splices_of(sound) if sound.content else (None,)
        else:
            path, stat = os.fspath(sound), os.stat(sound)
            splices = _splices_on_disk(path, stat.st_size, stat.st_ino)
    except Damaged as damage:
        raise UserError(f"{sound}: {damage}") from damage
    return [Part(sound, splice) for splice in splices]


def require_one_stream(sound: Sound) -> None:
    """Raises UserError for a FLAC file that goes on after its end; reads the whole file."""
    with Window(sound) as window:
        if window.starts_with(flac.MAGIC) and flac.holds_another(window):
            raise UserError(
                f"{sound}: holds several FLAC files one after the other, of which only the first "
                "would be read; split it, or decode and encode it again"
            )


@functools.lru_cache(maxsize=64)
def _splices_on_disk(path: str, size: int, inode: int) -> tuple[Splice | None, ...]:
    """Size and inode tell files apart."""
    return _splices_of(path) if size else (None,)


def _splices_of(sound: Sound) -> tuple[Splice | None, ...]:
    """What to hand to libsndfile; None is the file as it is."""
    with Window(sound) as window:
        return tuple(_reader(window, str(sound))(window))


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
