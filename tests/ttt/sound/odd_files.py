"""Sound files whose headers say nothing, too little or too much: three seconds of noise each."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import soundfile

RATE = 48_000
SAMPLES = 3 * RATE
NOISE = np.random.default_rng(0).normal(0, 0.1, SAMPLES).astype(np.float32)


def encoded(
    form: str, subtype: str | None = None, audio: np.ndarray = NOISE, rate: int = RATE
) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def patched(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


def flac(total: int) -> bytes:
    """A FLAC file whose header tells this number of samples."""
    content = encoded("FLAC", "PCM_16")
    first = bytes([content[21] & 0xF0 | total >> 32])
    return patched(content, 21, first + (total & 0xFFFF_FFFF).to_bytes(4, "big"))


def wav(size: int, form: str = "WAV") -> bytes:
    """A WAV file whose header tells this number of bytes, of itself and of its audio."""
    content = encoded(form, "PCM_16")
    number = struct.pack("<I", size)
    return patched(patched(content, 4, number), content.index(b"data") + 4, number)


def mp3(header: bool = True, rate: int = RATE, audio: np.ndarray = NOISE) -> bytes:
    """An MP3 file, with or without the frame that tells its length."""
    content = encoded("MP3", "MPEG_LAYER_III", audio, rate)
    return content if header else content[_first_frame_bytes(content) :]


def _first_frame_bytes(content: bytes) -> int:
    """Where the second frame begins: four bytes that agree with the first's in version and rate."""
    at = 1
    while content[at : at + 2] != content[:2] or content[at + 2] & 0x0C != content[2] & 0x0C:
        at += 1
    return at


def id3(size: int) -> bytes:
    return (
        b"ID3\x03\0\0"
        + bytes([size >> 21, size >> 14 & 127, size >> 7 & 127, size & 127])
        + (b"\0" * size)
    )


def vbr() -> bytes:
    """An MP3 file of growing loudness, whose first frame is no measure of the others."""
    grown = NOISE * np.linspace(0, 1, SAMPLES, dtype=np.float32) ** 4
    return mp3(header=False, audio=grown)


WHOLE: dict[str, tuple[str, Callable[[], bytes], int, int]] = {
    "FLAC of unknown length": ("flac", lambda: flac(0), SAMPLES, 0),
    "FLAC of unknown length, tagged": (
        "flac",
        lambda: flac(0) + b"TAG" + b" " * 125,
        SAMPLES,
        0,
    ),
    "FLAC that is longer than it says": ("flac", lambda: flac(1000), SAMPLES, 0),
    "WAV of 0 bytes": ("wav", lambda: wav(0), SAMPLES, 0),
    "WAV of all ones": ("wav", lambda: wav(0xFFFF_FFFF), SAMPLES, 0),
    "WAV of 2 GiB": ("wav", lambda: wav(0x8000_0000), SAMPLES, 0),
    "WAV of 0x7FFFFFFF": ("wav", lambda: wav(0x7FFF_FFFF), SAMPLES, 0),
    "extensible WAV of 0 bytes": ("wav", lambda: wav(0, "WAVEX"), SAMPLES, 0),
    "RF64 of 0 bytes": (
        "rf64",
        lambda: patched(encoded("RF64", "PCM_16"), 20, b"\0" * 16),
        SAMPLES,
        0,
    ),
    "AU of 0 bytes": (
        "au",
        lambda: patched(encoded("AU", "PCM_16"), 8, b"\0" * 4),
        SAMPLES,
        0,
    ),
    "AU of all ones": ("au", lambda: patched(encoded("AU", "PCM_16"), 8, b"\xff" * 4), SAMPLES, 0),
    "MP3": ("mp3", mp3, SAMPLES, 0),
    "MP3 without a length": ("mp3", lambda: mp3(header=False), SAMPLES, 1200),
    "MP3 without a length, stereo": (
        "mp3",
        lambda: mp3(header=False, audio=np.stack([NOISE, NOISE / 2], axis=1)),
        SAMPLES,
        1200,
    ),
    "MP3 at 24 kHz without a length": (
        "mp3",
        lambda: mp3(header=False, rate=24_000, audio=NOISE[::2]),
        SAMPLES // 2,
        1200,
    ),
    "MP3 of a variable rate without a length": ("mp3", vbr, SAMPLES, 1200),
    "MP3 behind a tag, without a length": (
        "mp3",
        lambda: id3(3000) + mp3(header=False) + b"TAG" + b" " * 125,
        SAMPLES,
        1200,
    ),
    "MP3 behind junk": ("mp3", lambda: b"\0" * 5000 + mp3(), SAMPLES, 0),
    "two MP3s": ("mp3", lambda: mp3() + mp3(), 2 * SAMPLES, 0),
    "two MP3s with tags": (
        "mp3",
        lambda: id3(99) + mp3() + id3(500) + mp3(),
        2 * SAMPLES,
        0,
    ),
    "two MP3s without a length": (
        "mp3",
        lambda: mp3(header=False) + mp3(header=False),
        2 * SAMPLES,
        2400,
    ),
    "an MP3 with and one without a length": (
        "mp3",
        lambda: mp3() + mp3(header=False),
        2 * SAMPLES,
        2400,
    ),
    "two Ogg Vorbis": (
        "ogg",
        lambda: encoded("OGG", "VORBIS") + encoded("OGG", "VORBIS", NOISE[:RATE]),
        SAMPLES + RATE,
        0,
    ),
    "two Ogg Opus": (
        "opus",
        lambda: encoded("OGG", "OPUS") + encoded("OGG", "OPUS", NOISE[:RATE]),
        SAMPLES + RATE,
        0,
    ),
}
"""Name -> suffix, content, samples, and by how many a decoder's delay may change them."""

_HALVES = {
    "flac": ("FLAC", "PCM_16"),
    "wav": ("WAV", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "sph": ("NIST", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def _half(form: str, subtype: str) -> Callable[[], bytes]:
    def make() -> bytes:
        content = encoded(form, subtype)
        return content[: len(content) // 2]

    return make


def _without_last_page() -> bytes:
    content = encoded("OGG", "VORBIS")
    return content[: content.rindex(b"OggS")]


REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    **{
        f"half a .{suffix}": (suffix, _half(*form), "cut short|lost sync")
        for suffix, form in _HALVES.items()
    },
    "half a FLAC of unknown length": (
        "flac",
        lambda: flac(0)[: len(flac(0)) // 2],
        "cut short, it tells no length and does not end with a whole frame",
    ),
    "FLAC that is shorter than it says": (
        "flac",
        lambda: flac(2 * SAMPLES),
        "cut short, 144,000 of 288,000 samples are there",
    ),
    "two FLACs": (
        "flac",
        lambda: encoded("FLAC", "PCM_16") * 2,
        "holds several FLAC files one after the other",
    ),
    "Ogg without its last page": ("ogg", _without_last_page, "cut short, its last page"),
    "WAV longer than it says": (
        "wav",
        lambda: wav(1000),
        "its header promises 1,000 bytes of audio, but 288,000 follow",
    ),
    "AU longer than it says": (
        "au",
        lambda: patched(encoded("AU", "PCM_16"), 8, struct.pack(">I", 1000)),
        "its header promises 1,000 bytes of audio, but 288,000 follow",
    ),
    "two MP3s of different rates": (
        "mp3",
        lambda: mp3() + mp3(rate=44_100),
        r"joined of parts that differ \(44,100 and 48,000 Hz\)",
    ),
    "two Ogg Vorbis of different rates": (
        "ogg",
        lambda: encoded("OGG", "VORBIS") + encoded("OGG", "VORBIS", rate=24_000),
        "joined of streams that differ",
    ),
}
"""Name -> suffix, content, what is said of it."""
