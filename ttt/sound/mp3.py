"""MP3 files: frames are counted, since their headers often tell no length or one part's.

A file is one part or several joined ones, each with its own header frame ("Xing" or "Info") or
without any. Where the header frame of a part agrees with the frames that follow, the part is left
alone, so that the decoder takes off the encoder's delay; otherwise it gets a header frame that is
true. Sources: ISO 11172-3 and 13818-3, 2.4.2.3 (frame header); LAME's description of the Xing tag.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ttt.sound.splice import Damaged, Splice, Window

SUFFIXES = (".mp3", ".mp2", ".mp1", ".mpga")
_KBIT = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""By version (1, or 2 for 2 and 2.5) and layer: kbit/s for the codes 1 to 14."""
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


@dataclass(frozen=True)
class _Frame:
    start: int
    stop: int
    kind: tuple[int, int, int]
    """Version's code, layer, samples per second."""
    mono: bool

    @property
    def xing_at(self) -> int:
        """Where a Xing header lies in it, behind the side information."""
        one = self.kind[0] == 3
        return self.start + 4 + ((17 if self.mono else 32) if one else (9 if self.mono else 17))


@dataclass
class _Run:
    """A part: its header frame, if there is one, and the frames of audio."""

    header: _Frame | None
    promised: int | None
    first: _Frame | None = None
    stop: int = 0
    count: int = 0


def begins(window: Window) -> bool:
    """Whether the file looks like MP3: a frame, or an ID3 tag with a frame behind it."""
    start = _skip_tags(window, 0)
    first = _frame_at(window, start)
    return first is not None and _frame_at(window, first.stop) is not None


def splices(window: Window) -> list[Splice | None]:
    """One per part of the file."""
    if _tells_its_length(window):
        return [None]
    runs = [run for run in _runs(window) if run.first is not None]
    if not runs:
        return [None]
    kinds = {run.first.kind for run in runs if run.first is not None}
    if len(kinds) > 1:
        rates = " and ".join(f"{rate:,}" for rate in sorted({rate for *_, rate in kinds}))
        raise Damaged(f"joined of parts that differ ({rates} Hz); split it, or convert it first")
    return [_splice(window, run) for run in runs]


def _splice(window: Window, run: _Run) -> Splice:
    assert run.first is not None
    if run.header is not None and run.promised is not None:
        if run.promised > run.count + 1:
            raise Damaged(f"cut short, {run.count:,} of {run.promised:,} frames are there")
        if abs(run.promised - run.count) <= 1:
            return ((run.header.start, run.stop),)
    if run.first.kind[1] != 3:
        first_bytes = run.first.stop - run.first.start
        if abs((run.stop - run.first.start) / run.count - first_bytes) > 1:
            raise Damaged("MPEG layer 1 or 2 of a variable bit rate, whose length is not known")
        return ((run.first.start, run.stop),)
    return _info_frame(window, run), (run.first.start, run.stop)


def _info_frame(window: Window, run: _Run) -> bytes:
    """A silent frame that tells how many frames and bytes follow."""
    first = run.first
    assert first is not None
    header = bytearray(window[first.start : first.start + 4])
    header[1] |= 1  # No checksum behind the header.
    version = 1 if first.kind[0] == 3 else 2
    header[2] = (_KBIT[version, 3].index(64) + 1) << 4 | header[2] & 0x0C
    frame = bytearray(_frame_bytes(bytes(header)) or 0)
    frame[:4] = header
    at = first.xing_at - first.start
    counted = run.count.to_bytes(4, "big") + (run.stop - first.start + len(frame)).to_bytes(
        4, "big"
    )
    frame[at : at + 16] = b"Info" + (3).to_bytes(4, "big") + counted
    return bytes(frame)


def _tells_its_length(window: Window) -> bool:
    """Whether the first frame's count of bytes agrees with the file's."""
    first = _frame_at(window, _skip_tags(window, 0))
    if first is None or not _is_header(window, first):
        return False
    flags, frames, size = (
        int.from_bytes(window[first.xing_at + at : first.xing_at + at + 4], "big")
        for at in (4, 8, 12)
    )
    end = len(window)
    if window[end - 128 : end - 125] == b"TAG":
        end -= 128
    apart = abs(end - first.start - size)
    return flags & 3 == 3 and frames > 0 and apart <= 2 * (first.stop - first.start)


def _runs(window: Window) -> Iterator[_Run]:
    run = _Run(None, None)
    for frame in _frames(window):
        if _is_header(window, frame):
            yield run
            run = _Run(frame, _promised(window, frame))
            continue
        if run.first is not None and run.first.kind != frame.kind:
            yield run
            run = _Run(None, None)
        run.first = run.first or frame
        run.stop = frame.stop
        run.count += 1
    yield run


def _frames(window: Window) -> Iterator[_Frame]:
    place = _skip_tags(window, 0)
    in_step = False
    while place + 4 <= len(window):
        frame = _frame_at(window, place)
        if frame is not None and frame.stop <= len(window) and (in_step or _follows(window, frame)):
            yield frame
            place, in_step = frame.stop, True
            continue
        behind = _skip_tags(window, place)
        if behind > place:
            place = behind
            continue
        in_step = False
        place = window.find(b"\xff", place + 1)
        if place < 0:
            return


def _follows(window: Window, frame: _Frame) -> bool:
    """Whether another frame, a tag or the end is where a frame ends: it is no chance."""
    following = _frame_at(window, frame.stop)
    if following is not None:
        return following.kind == frame.kind
    return frame.stop == len(window) or _skip_tags(window, frame.stop) > frame.stop


def _frame_at(window: Window, at: int) -> _Frame | None:
    header = window[at : at + 4]
    size = _frame_bytes(header)
    if size is None:
        return None
    code, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate = _RATES[code][header[2] >> 2 & 3]
    return _Frame(at, at + size, (code, layer, rate), header[3] >> 6 == 3)


def _frame_bytes(header: bytes) -> int | None:
    """The length of the frame with this header; None when it is no header."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    code, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bits, rate_code = header[2] >> 4, header[2] >> 2 & 3
    if code == 1 or layer == 4 or bits in (0, 15) or rate_code == 3:
        return None
    version, padding = (1 if code == 3 else 2), header[2] >> 1 & 1
    kbit, rate = _KBIT[version, layer][bits - 1], _RATES[code][rate_code]
    if layer == 1:
        return (12_000 * kbit // rate + padding) * 4
    slots = 72_000 if layer == 3 and version == 2 else 144_000
    return slots * kbit // rate + padding


def _is_header(window: Window, frame: _Frame) -> bool:
    at = frame.xing_at
    return window[at : at + 4] in (b"Xing", b"Info") or (
        window[frame.start + 36 : frame.start + 40] == b"VBRI"
    )


def _promised(window: Window, frame: _Frame) -> int | None:
    """How many frames a header frame says will follow; None when it does not."""
    at = frame.xing_at
    tag, flags, frames = window[at : at + 4], window[at + 4 : at + 8], window[at + 8 : at + 12]
    if tag not in (b"Xing", b"Info") or not int.from_bytes(flags, "big") & 1:
        return None
    return int.from_bytes(frames, "big") or None


def _skip_tags(window: Window, place: int) -> int:
    """Where the ID3 and APE tags that begin at a place end."""
    while True:
        head = window[place : place + 32]
        if head[:3] == b"ID3" and len(head) > 10:
            size = 0
            for byte in head[6:10]:
                size = size << 7 | byte & 0x7F
            place += 10 + size + (10 if head[5] & 0x10 else 0)
        elif head[:3] == b"TAG":
            place += 128
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            # A tag's header, before its items and footer, or a footer whose items came first.
            place += 32 + (int.from_bytes(head[12:16], "little") if head[23] & 0x20 else 0)
        else:
            return place
