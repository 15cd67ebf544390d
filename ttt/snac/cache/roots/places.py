"""The sound of a clip, wherever it lies: a path, or its bytes out of a tar, a parquet or a store.

Nothing is unpacked: of a tar the clip's own bytes are read, of a parquet the row group it is in.
"""

from __future__ import annotations

import functools

from ttt import storage
from ttt.files.ranged import RangedFile, open_ranged, read_at
from ttt.retries import StorageUnavailable
from ttt.snac.cache.inputs import ClipInput, InputChanged, LeftOut
from ttt.snac.cache.roots.parquets import ParquetRows
from ttt.sound.splice import Sound, SoundBytes


def open_clip(clip: ClipInput, column: str | None = None) -> Sound:
    """The sound file of an input of any kind; `column` holds it in a parquet.

    Raises LeftOut when it has no bytes, InputChanged when the file around it is gone or another
    than when it was listed, and StorageUnavailable.
    """
    if clip.row >= 0:
        content = _rows(clip.source, column, clip.file_bytes).read(clip.row)
        if not content:
            raise LeftOut("unreadable", f"{clip.source}: row {clip.row} has no bytes")
        return SoundBytes(clip.clip_id, content)
    if clip.span is not None:
        start, stop = clip.span
        content = read_at(_tar(clip.source, clip.file_bytes), start, stop - start)
        return SoundBytes(clip.clip_id, content)
    if storage.is_local(clip.source):
        return clip.source
    try:
        return SoundBytes(clip.source, storage.read_bytes(clip.source))
    except FileNotFoundError as error:
        raise LeftOut("unreadable", f"{clip.source}: no such file") from error


@functools.lru_cache(maxsize=8)
def _tar(place: str, file_bytes: int | None) -> RangedFile:
    if storage.file_bytes(place) != file_bytes:
        raise _changed(place)
    try:
        return open_ranged(place)
    except StorageUnavailable:
        raise
    except OSError as error:
        raise _changed(place) from error


@functools.lru_cache(maxsize=2)
def _rows(place: str, column: str | None, file_bytes: int | None) -> ParquetRows:
    if storage.file_bytes(place) != file_bytes:
        raise _changed(place)
    return ParquetRows(place, column)


def _changed(place: str) -> InputChanged:
    return InputChanged(f"{place}: is gone or another file than when it was listed; run again")
