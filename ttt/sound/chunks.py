"""The length of WAV, RF64, AIFF and AU files, whose headers count the bytes of their audio.

A writer that knew no length, or was killed, leaves 0 or a huge number there. libsndfile takes huge
numbers for "to the end" and 0 for no audio; it says nothing of audio behind a number too small.
"""

from __future__ import annotations

from ttt.sound.splice import Damaged, Splice, Window

MAGICS = (b"RIFF", b"RIFX", b"RF64", b"FORM", b".snd")
_UNKNOWN = 0x7FFF_0000
"""Sizes from here on mean that the size is not known."""
_ODD_BYTES = 4096
"""So much behind the audio is no audio that somebody would miss."""


def splices(window: Window) -> list[Splice | None]:
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
