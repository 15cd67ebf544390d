"""WebDataset tars: every audio member is a clip, known by its bytes in the tar.

A tar is walked once, from header to header; nothing of the audio is read for that and nothing is
unpacked. The members of a sample share their name up to the first dot: `a/7.flac`, `a/7.json`.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, cast

from ttt import storage
from ttt.errors import UserError
from ttt.files.ranged import open_seekable
from ttt.files.walk import is_hidden, shown, suffix_of
from ttt.snac.cache.inputs import ClipInput
from ttt.snac.cache.roots.files import Listing, RootFile, files_of, gib
from ttt.snac.cache.sources import AUDIO_SUFFIXES
from ttt.snac.cache.speakers import rule_name, with_speaker

_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst")
_MAGICS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_TARS_AT_ONCE = 8
_READ_AHEAD = 2**16
"""Holds a small .json and the next header: of an object store, one request a clip."""
_LONGEST_JSON = 2**24
_PADDING = 20 * tarfile.BLOCKSIZE
"""Zeros behind the end mark fill up a record of this length."""


def list_tars(root: str, speaker: str | None) -> Listing:
    """Every audio member of every tar of a root, in the order of the tars.

    A tar that is cut short or damaged is an input with a problem besides its whole members. Raises
    UserError for a compressed tar, and when no tar holds audio.
    """
    tars = files_of(root, (".tar", *_COMPRESSED))
    # In a folder x.txt.gz is somebody else's; a file that is named itself is meant.
    tars = [
        tar
        for tar in tars
        if not tar.path.lower().endswith(_COMPRESSED) or _is_compressed_tar(tar.path)
    ]
    for tar in tars:
        if _is_compressed_tar(tar.path):
            raise _compressed(tar)
    with ThreadPoolExecutor(_TARS_AT_ONCE) as pool:
        found = list(pool.map(lambda tar: _clips(tar, rule_name(speaker, "json")), tars))
    inputs = [clip for clips in found for clip in clips]
    suffixes = Counter(suffix_of(clip.clip_id) for clip in inputs if clip.span is not None)
    if not suffixes:
        why = f" ({inputs[0].problem_note})" if inputs else ""
        raise UserError(
            f"{root}: no audio in {len(tars):,} tar(s){why}; members count as audio by their "
            "suffix (.wav, .flac, .ogg, .opus, .mp3, ...)"
        )
    clips = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common())
    size = gib(sum(tar.bytes for tar in tars))
    empty = [tar.path for tar, clips in zip(tars, found, strict=True) if not clips]
    return Listing(
        inputs,
        f"{clips} in {len(tars):,} .tar of {size}",
        notes=tuple(f"{path} holds no audio" for path in empty)
        + tuple(clip.problem_note for clip in inputs if clip.span is None),
    )


def _is_compressed_tar(path: str) -> bool:
    name = path.lower()
    return suffix_of(name) == ".tgz" or name.removesuffix(suffix_of(name)).endswith(".tar")


def _compressed(tar: RootFile) -> UserError:
    return UserError(
        f"{tar.place}: is compressed, and a clip in it could only be reached by unpacking all that "
        "stands before; store it as a plain .tar (sound files hardly shrink)"
    )


def _clips(tar: RootFile, key: str | None) -> list[ClipInput]:
    if tar.problem is not None:
        return [tar.left_out(tar.problem)]
    clips: list[ClipInput] = []
    texts: dict[str, bytes] = {}
    problem = None
    with _open(tar.place) as file:
        if file.read(8).startswith(_MAGICS):
            raise _compressed(tar)
        file.seek(0)
        try:
            for member in _members(file):
                name = shown(member.name).removeprefix("./").lstrip("/")
                stop = member.offset_data + member.size
                if key is not None and suffix_of(name) == ".json" and member.size < _LONGEST_JSON:
                    file.seek(member.offset_data)
                    texts[_sample(name)] = file.read(member.size)
                elif suffix_of(name) in AUDIO_SUFFIXES and not _is_litter(name):
                    clips.append(_clip(tar, name, member))
                if stop > tar.bytes:
                    problem = f"is cut short inside {name}, what followed is lost"
                    break
        except _Damaged as damage:
            problem = str(damage)
    if key is not None:
        clips = [
            with_speaker(clip, _value(texts.get(_sample(clip.clip_id[len(tar.path) + 1 :])), key),
                         f"speaker: no {key} in a .json beside it")
            for clip in clips
        ]  # fmt: skip
    return clips if problem is None else [*clips, tar.left_out(problem)]


class _Damaged(Exception):
    """What is wrong with a tar, without its name."""


def _open(place: str) -> BinaryIO:
    if storage.is_local(place):
        return open(storage.local_path(place), "rb")
    raw = cast(io.RawIOBase, open_seekable(place))
    return cast(BinaryIO, io.BufferedReader(raw, _READ_AHEAD))


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The members in order. Raises _Damaged where the tar does not end as it should.

    tarfile takes a damaged header behind the first for the end.
    """
    end = 0
    try:
        with tarfile.open(
            fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as tar:
            while (member := tar.next()) is not None:
                vars(tar)["members"].clear()  # It would hold them all.
                yield member
            end = tar.offset
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise _Damaged(f"cannot be read as a tar from some byte on ({error})") from error
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise _Damaged(f"has no end mark at byte {end:,}: if it was cut short, the rest is lost")
    if any(block):
        raise _Damaged(f"has a damaged header at byte {end:,}, and what follows cannot be read")
    if any(file.read(_PADDING)):
        raise _Damaged(f"goes on behind its end mark at byte {end:,}: split it where it was joined")


def _clip(tar: RootFile, name: str, member: tarfile.TarInfo) -> ClipInput:
    start, stop = member.offset_data, member.offset_data + member.size
    problem = None
    if not member.isreg() or member.issparse():
        problem = f"{name}: is a link or another thing without bytes of its own"
    elif stop > tar.bytes:
        there = max(tar.bytes - start, 0)
        problem = f"{name}: the tar is cut short, {there:,} of {member.size:,} bytes are there"
    return ClipInput(
        f"{tar.path}/{name}",
        source=tar.place,
        span=(start, stop),
        file_bytes=tar.bytes,
        problem=None if problem is None else "unreadable",
        problem_note=problem or "",
    )


def _sample(name: str) -> str:
    """By which the members of a sample know each other."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _is_litter(name: str) -> bool:
    return any(map(is_hidden, name.split("/")))


def _value(text: bytes | None, key: str) -> object:
    try:
        found = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found.get(key) if isinstance(found, dict) else None
