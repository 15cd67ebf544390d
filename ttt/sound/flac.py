"""The length of a FLAC file: what its last frame says.

A program that writes into a pipe leaves the number of samples in the header at 0, which means
unknown. Every frame says where it lies, so that the last one tells where the audio ends.
Source: RFC 9639, sections 8.2 (streaminfo) and 9 (frame structure).
"""

from __future__ import annotations

from dataclasses import dataclass

from ttt.sound.splice import Damaged, Splice, Window

MAGIC = b"fLaC"
_STREAMINFO = 8  # After the magic and a block's header.
_TOTAL = _STREAMINFO + 13
_FIRST_BLOCK = MAGIC + b"\x00\x00\x00\x22"
_FIRST_AND_LAST_BLOCK = MAGIC + b"\x80\x00\x00\x22"
_ID3V1_BYTES = 128


def splices(window: Window) -> list[Splice | None]:
    """The file, with the number of samples that it holds in its header."""
    if len(window) < _STREAMINFO + 34:
        return [None]
    header = window[_STREAMINFO : _STREAMINFO + 34]
    promised = int.from_bytes(header[13:18], "big") & 0xF_FFFF_FFFF
    last = _last_frame(window, header)
    if last is None:
        if promised == 0 and len(window) > _audio_start(window):
            raise Damaged("cut short, it tells no length and does not end with a whole frame")
        return [None]
    if promised in (last.stop, 0) or promised < last.stop:
        first = bytes([(header[13] & 0xF0) | last.stop >> 32])
        true = first + (last.stop & 0xFFFF_FFFF).to_bytes(4, "big")
        unchanged = promised == last.stop
        return [None if unchanged else ((0, _TOTAL), true, (_TOTAL + 5, len(window)))]
    raise Damaged(f"cut short, {last.stop:,} of {promised:,} samples are there")


def holds_another(window: Window) -> bool:
    """Whether a second FLAC file begins somewhere inside; reads the whole file."""
    return any(window.find(block, 1) > 0 for block in (_FIRST_BLOCK, _FIRST_AND_LAST_BLOCK))


@dataclass(frozen=True)
class _Frame:
    stop: int
    """The sample after its last."""


def _audio_start(window: Window) -> int:
    """Where the metadata end."""
    place = len(MAGIC)
    while place + 4 <= len(window):
        block = window[place : place + 4]
        place += 4 + int.from_bytes(block[1:], "big")
        if block[0] & 0x80:
            break
    return min(place, len(window))


def _last_frame(window: Window, header: bytes) -> _Frame | None:
    """The frame that ends where the file ends; None when the file does not end with a frame."""
    block_samples, most_samples = (int.from_bytes(header[at : at + 2], "big") for at in (0, 2))
    channels, bits = (header[12] >> 1 & 7) + 1, ((header[12] & 1) << 4 | header[13] >> 4) + 1
    longest = 64 + most_samples * channels * (bits + 8) // 8  # Not compressed at all.
    end = len(window)
    if window[end - _ID3V1_BYTES : end - _ID3V1_BYTES + 3] == b"TAG":
        end -= _ID3V1_BYTES
    start = max(_audio_start(window), end - longest)
    tail = window[start:end]
    place = len(tail)
    while (place := tail.rfind(b"\xff", 0, place)) >= 0:
        frame = _frame_at(tail, place, block_samples)
        if frame is not None and _crc16(tail[place:-2]) == int.from_bytes(tail[-2:], "big"):
            return frame
    return None


def _frame_at(tail: bytes, at: int, block_samples: int) -> _Frame | None:
    """The frame whose header is at a place; None when there is no header."""
    if len(tail) < at + 8 or tail[at + 1] & 0xFE != 0xF8 or tail[at + 3] & 1:
        return None
    size_code, rate_code = tail[at + 2] >> 4, tail[at + 2] & 15
    if size_code == 0 or rate_code == 15 or tail[at + 3] >> 4 > 10:
        return None
    number, place = _coded_number(tail, at + 4)
    if number is None:
        return None
    samples, extra = _block_size(size_code, tail[place : place + 2])
    place += extra + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if place >= len(tail) or _crc8(tail[at:place]) != tail[place]:
        return None
    variable = tail[at + 1] & 1
    return _Frame((number if variable else number * block_samples) + samples)


def _coded_number(tail: bytes, at: int) -> tuple[int | None, int]:
    """A frame's or sample's number, coded as in UTF-8 but longer; and where it ends."""
    first = tail[at]
    if first < 0x80:
        return first, at + 1
    length = 8 - (first ^ 0xFF).bit_length()
    following = tail[at + 1 : at + length]
    if not 2 <= length <= 7 or len(following) < length - 1 or any(b >> 6 != 2 for b in following):
        return None, at
    number = first & (0x7F >> length)
    for byte in following:
        number = number << 6 | byte & 0x3F
    return number, at + length


def _block_size(code: int, following: bytes) -> tuple[int, int]:
    """Samples of a frame, and the bytes that say so after the number."""
    if code == 1:
        return 192, 0
    if code <= 5:
        return 144 << code, 0
    if code == 6:
        return following[0] + 1 if following else 0, 1
    if code == 7:
        return int.from_bytes(following, "big") + 1, 2
    return 1 << code, 0


def _crc_table(polynomial: int, bits: int) -> list[int]:
    table = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> (bits - 1) else 0)
            value &= (1 << bits) - 1
        table.append(value)
    return table


_CRC8_TABLE, _CRC16_TABLE = _crc_table(0x07, 8), _crc_table(0x8005, 16)


def _crc8(content: bytes) -> int:
    value = 0
    for byte in content:
        value = _CRC8_TABLE[value ^ byte]
    return value


def _crc16(content: bytes) -> int:
    value = 0
    for byte in content:
        value = (value << 8 & 0xFF00) ^ _CRC16_TABLE[value >> 8 ^ byte]
    return value
