"""The streams of an Ogg file (Vorbis, Opus, FLAC), which may be chained one after the other.

A stream's first page is marked and so is its last. libsndfile reads the first stream of a chain.
Source: RFC 3533, sections 4 and 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ttt.sound.splice import Damaged, Splice, Window

MAGIC = b"OggS"
_HEADER_BYTES = 27
_FIRST, _LAST = 2, 4


@dataclass(frozen=True)
class _Page:
    start: int
    stop: int
    flags: int


def splices(window: Window) -> list[Splice | None]:
    """One per link of the chain. Raises Damaged when the file ends inside a stream."""
    links: list[int] = []
    last: _Page | None = None
    for page in _pages(window):
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


def _pages(window: Window) -> Iterator[_Page]:
    place = 0
    while (place := window.find(MAGIC, place)) >= 0:
        header = window[place : place + _HEADER_BYTES]
        n_segments = header[26] if len(header) == _HEADER_BYTES else 255
        sizes = window[place + _HEADER_BYTES : place + _HEADER_BYTES + n_segments]
        missing = n_segments - len(sizes)
        stop = place + _HEADER_BYTES + n_segments + sum(sizes) + missing
        yield _Page(place, stop, header[5] if len(header) > 5 else 0)
        place = stop
