"""The length of WAV, RF64, AIFF, AU and SPHERE files, and the streams of an Ogg file.

The headers of WAV and its kin count the bytes of their audio. A writer that knew no length, or was
killed, leaves 0 or a huge number there. libsndfile takes huge numbers for "to the end" and 0 for no
audio; it says nothing of audio behind a number too small. SPHERE's length it takes from the file's
size alone.

An Ogg file (Vorbis, Opus, FLAC) may chain streams one after the other, of which libsndfile reads
the first; a stream's first page is marked and so is its last (RFC 3533, sections 4 and 6).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ttt.sound.splice import Damaged, Splice, Window

CHUNK_MAGICS = (b"RIFF", b"RIFX", b"RF64", b"FORM", b".snd")
_UNKNOWN = 0x7FFF_0000
"""Sizes from here on mean that the size is not known."""
_ODD_BYTES = 4096
"""So much behind the audio is no audio that somebody would miss."""


def chunk_splices(window: Window) -> list[Splice | None]:
    """The file, with the number of bytes that follow in place of a number that says nothing."""
    if window.starts_with(b".snd"):
        return [_sun(window)]
    return [_chunked(window)]


def _sun(window: Window) -> Splice | None:
    start, promised = (int.from_bytes(window[at : at + 4], "big") for at in (4, 8))
    follows = len(window) - start
    if promised == 0 and follows > 0:
        return (0, 8), b"\xff\xff\xff\xff", (12, len(window))
    if 0 < promised < _UNKNOWN and follows - promised > _ODD_BYTES:
        raise _longer(promised, follows)
    return None


def _chunked(window: Window) -> Splice | None:
    order = "little" if window[:4] in (b"RIFF", b"RF64") else "big"
    audio = b"SSND" if window.starts_with(b"FORM") else b"data"
    place, wide = 12, None
    while place + 8 <= len(window):
        name = window[place : place + 4]
        size = int.from_bytes(window[place + 4 : place + 8], order)
        if name == b"ds64":
            wide = place + 16  # 8 bytes of the audio's size, behind those of the whole file.
        if name == audio:
            break
        place += 8 + size + size % 2
    else:
        return None
    follows = len(window) - place - 8
    promised = size
    if wide is not None and size == 0xFFFF_FFFF:
        promised = int.from_bytes(window[wide : wide + 8], "little")
    if promised >= _UNKNOWN and wide is None:
        return None
    behind = follows - promised - promised % 2
    if behind <= _ODD_BYTES or _are_chunks(window, place + 8 + promised + promised % 2, order):
        return None
    if promised > 8:
        raise _longer(promised, follows)
    if wide is not None and size == 0xFFFF_FFFF:
        whole = (len(window) - 8).to_bytes(8, "little")
        return (0, wide - 8), whole + follows.to_bytes(8, "little"), (wide + 8, len(window))
    true = min(follows, 0xFFFF_FFFF).to_bytes(4, order)
    return (0, place + 4), true, (place + 8, len(window))


def _are_chunks(window: Window, place: int, order: str) -> bool:
    """Whether named chunks follow up to the end of the file."""
    end = len(window)
    while place + 8 <= end:
        name = window[place : place + 4]
        if not all(0x20 <= byte < 0x7F for byte in name):
            return False
        size = int.from_bytes(window[place + 4 : place + 8], "big" if order == "big" else "little")
        place += 8 + size + size % 2
    return place <= end + 1


def _longer(promised: int, follows: int) -> Damaged:
    return Damaged(
        f"its header promises {promised:,} bytes of audio, but {follows:,} follow; rewrite the "
        "header with the program that made the file"
    )


OGG_MAGIC = b"OggS"
_HEADER_BYTES = 27
_FIRST, _LAST = 2, 4


@dataclass(frozen=True)
class _OggPage:
    start: int
    stop: int
    flags: int


def ogg_splices(window: Window) -> list[Splice | None]:
    """One per link of the chain. Raises Damaged when the file ends inside a stream."""
    links: list[int] = []
    last: _OggPage | None = None
    for page in _ogg_pages(window):
        # A link may begin with several first pages, of sound and of other things.
        if page.flags & _FIRST and not (last and last.flags & _FIRST):
            links.append(page.start)
        last = page
    if last is None:
        return [None]
    if last.stop > len(window):
        raise Damaged("cut short, it ends inside a page")
    if not last.flags & _LAST:
        raise Damaged("cut short, its last page is not marked as the end of the stream")
    if len(links) < 2:
        return [None]
    return [((start, stop),) for start, stop in zip(links, [*links[1:], last.stop], strict=True)]


def _ogg_pages(window: Window) -> Iterator[_OggPage]:
    place = 0
    while (place := window.find(OGG_MAGIC, place)) >= 0:
        header = window[place : place + _HEADER_BYTES]
        n_segments = header[26] if len(header) == _HEADER_BYTES else 255
        sizes = window[place + _HEADER_BYTES : place + _HEADER_BYTES + n_segments]
        missing = n_segments - len(sizes)
        stop = place + _HEADER_BYTES + n_segments + sum(sizes) + missing
        yield _OggPage(place, stop, header[5] if len(header) > 5 else 0)
        place = stop


SPHERE_MAGIC = b"NIST"


def sphere_splices(window: Window) -> list[Splice | None]:
    """The file as it is. Raises Damaged when it is shorter than its header promises."""
    fields = {}
    for line in window[:1024].decode("latin-1").splitlines():
        words = line.split()
        if len(words) == 3 and words[1] == "-i" and words[2].isdigit():
            fields[words[0]] = int(words[2])
    lines = window[:64].split(b"\n")
    header = int(lines[1]) if len(lines) > 1 and lines[1].strip().isdigit() else 1024
    samples = fields.get("sample_count", 0)
    wanted = samples * fields.get("channel_count", 1) * fields.get("sample_n_bytes", 2)
    if len(window) - header < wanted:
        raise Damaged("cut short, the header promises more audio than follows")
    return [None]
