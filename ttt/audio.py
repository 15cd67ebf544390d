"""Audio files and sample rates.

Audio in memory is float32 in [-1, 1]; on disk and in caches it is int16. One int16 step is
1/32768, so int16 audio survives `from_int16` and `to_int16` unchanged.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from ttt.errors import UserError
from ttt.sound.parts import parts, require_one_stream
from ttt.sound.splice import Sound, SoundBytes

if TYPE_CHECKING:
    import torch  # Reading audio, and asking what a file is, needs none.


@dataclass(frozen=True)
class AudioHeader:
    """What a file says of itself; the audio behind it may still be cut short."""

    rate: int
    """Samples per second."""
    channels: int
    samples: int
    """Samples of each channel."""

    @property
    def seconds(self) -> float:
        """How long the file lasts."""
        return self.samples / self.rate


@dataclass(frozen=True)
class Piece:
    """A stretch of one audio file."""

    path: str
    start: int
    """First sample, at the file's own rate."""
    stop: int
    """The sample after the last."""
    rate: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return (self.stop - self.start) / self.rate


def read_header(sound: Sound) -> AudioHeader:
    """Rate, channels and length, found without decoding wherever the format allows it.

    Lengths that headers leave open, or get wrong, are counted (ttt.sound). Raises UserError as
    `read_audio` does.
    """
    rate, channels, samples = 0, 0, 0
    for file in _streams(sound):
        rate, channels, samples = file.samplerate, file.channels, samples + file.frames
    return AudioHeader(rate=rate, channels=channels, samples=samples)


def read_audio(sound: Sound) -> tuple[np.ndarray, int]:
    """A whole audio file as float32 [channels, samples] and its sample rate in Hz.

    Reads every format that libsndfile reads. Raises UserError with the file and the reason when
    it is missing, not audio, shorter or longer than it promises, or holds NaN or infinite samples.
    """
    header = read_header(sound)
    blocks = list(read_audio_blocks(sound, max(header.samples, 1), stop=header.samples))
    audio = blocks[0] if blocks else np.empty((header.channels, 0), np.float32)
    return audio, header.rate


def read_audio_blocks(
    sound: Sound, block_samples: int, start: int = 0, stop: int | None = None
) -> Iterator[np.ndarray]:
    """Samples [start, stop) of a file as float32 [channels, n], one by one.

    Every n is `block_samples` but the last, which may be smaller. Holds one block at a time,
    whatever the file's length. Raises UserError as `read_audio` does, also for a `stop` past the
    end.
    """
    with _in_words(sound):
        require_one_stream(sound)
        yield from _blocks(sound, block_samples, start, stop)


def _blocks(sound: Sound, block_samples: int, start: int, stop: int | None) -> Iterator[np.ndarray]:
    waiting: list[np.ndarray] = []
    held, place, begin = 0, start, 0
    for file in _streams(sound):
        end = begin + file.frames if stop is None else min(begin + file.frames, stop)
        if place < end:
            file.seek(place - begin)
        while place < end:
            wanted = min(block_samples - held, end - place)
            block = file.read(wanted, dtype="float32", always_2d=True).T
            place += block.shape[1]
            if block.shape[1] < wanted:
                raise UserError(_too_few(sound, place, end))
            if not np.isfinite(block).all():
                raise UserError(f"{sound}: holds NaN or infinite samples")
            waiting.append(block)
            held += wanted
            if held == block_samples:
                yield _joined(waiting)
                waiting, held = [], 0
        begin += file.frames
    if stop is not None and place < stop:
        raise UserError(_too_few(sound, place, stop))
    if waiting:
        yield _joined(waiting)


def _joined(blocks: list[np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1))


def _too_few(sound: Sound, samples: int, wanted: int) -> str:
    return f"{sound}: cut short, {samples:,} of {wanted:,} samples could be decoded"


class ChannelsCancel(UserError):
    """Channels that are each other's opposite: their mean is not what they sound like."""


def mix_to_mono(audio: np.ndarray) -> np.ndarray:
    """The mean of the channels: [channels, samples] -> [samples].

    Raises ChannelsCancel where a tenth of the energy lies in stretches that the mean would lose.
    """
    if len(audio) == 1:
        return audio[0]
    mono = audio.mean(axis=0, dtype=np.float32)
    starts = np.arange(0, audio.shape[1], _STRETCH_SAMPLES)
    apart = _energies(audio, starts).mean(axis=0)
    mixed = _energies(mono[None], starts)[0]
    # Of independent channels the mean has 1 / channels of the energy, as of one among silent ones.
    lost = apart[mixed < _CANCELLED * apart / len(audio)].sum()
    if lost > _LOST_SHARE * apart.sum():
        raise ChannelsCancel(
            f"its {len(audio)} channels cancel when they are mixed ({lost / apart.sum():.0%} of "
            "their energy is lost); keep one of them, or turn one upside down"
        )
    return mono


_STRETCH_SAMPLES = 8192
_CANCELLED = 0.1
_LOST_SHARE = 0.1


def _energies(audio: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Energy of [channels, samples] from each start to the next: [channels, starts]."""
    if not len(starts):
        return np.zeros((len(audio), 0))
    return np.add.reduceat(np.square(audio, dtype=np.float64), starts, axis=1)


def require_practical_ratio(from_rate: int, to_rate: int) -> None:
    """Raises UserError for rates between which resampling would take gigabytes of filters.

    The resampler holds one filter for each phase of the output.
    """
    if not 0 < from_rate <= _MAX_RATE or to_rate // math.gcd(from_rate, to_rate) > _MAX_PHASES:
        raise UserError(
            f"{from_rate:,} Hz has no practical ratio to {to_rate:,} Hz; resample it first"
        )


_MAX_PHASES = 2_000
_MAX_RATE = 1_000_000


def resample(
    audio: torch.Tensor, from_rate: int, to_rate: int, *, sharp: bool = False
) -> torch.Tensor:
    """Audio [..., T] at another sample rate: [..., ceil(T * to_rate / from_rate)].

    The default filter is torchaudio's; the decoder's head and every reference row use it.
    `sharp=True` takes the parameters known as "kaiser best" (a filter about ten times longer,
    flat to 0.95 of the lower Nyquist frequency): for preparing audio that goes into a cache.
    Raises UserError as `require_practical_ratio` does.
    """
    # Only here: whoever lists recordings, or reads them as they are, does without torch.
    from torchaudio.functional import resample as resampled

    require_practical_ratio(from_rate, to_rate)
    if not sharp:
        return resampled(audio, from_rate, to_rate)
    return resampled(
        audio,
        from_rate,
        to_rate,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    )


def through_rate(audio: torch.Tensor, rate: int, through: int) -> torch.Tensor:
    """Audio [..., T] through a lower rate and back, same length: what no signal of that rate beats.

    Down by the sharp filter, which keeps all that the rate can carry, and up by the default one,
    as every output of a 24 kHz codec goes up.
    """
    limited = resample(audio, rate, through, sharp=True)
    return resample(limited, through, rate)[..., : audio.shape[-1]]


def to_int16(audio: np.ndarray) -> np.ndarray:
    """Float audio as int16, rounded; values past full scale saturate and never wrap round.

    Raises UserError for NaN, which would become silence, and for infinite values.
    """
    _refuse_nonfinite(audio)
    return np.clip(np.rint(audio * 32768.0), -32768, 32767).astype(np.int16)


def from_int16(audio: np.ndarray) -> np.ndarray:
    """int16 audio as float32 in [-1, 1)."""
    return audio.astype(np.float32) / np.float32(32768)


def write_wav(path: str | Path, audio: np.ndarray | torch.Tensor, rate: int) -> None:
    """Write mono float audio [T] as a 16-bit WAV file."""
    samples = audio if isinstance(audio, np.ndarray) else audio.detach().cpu().numpy()
    soundfile.write(os.fspath(path), to_int16(samples), rate, format="WAV", subtype="PCM_16")


def flac_bytes(audio: np.ndarray, rate: int) -> bytes:
    """Mono float or int16 audio [T] as a 16-bit FLAC file, for a page to play.

    Raises UserError for NaN and infinite values.
    """
    _refuse_nonfinite(audio)
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _streams(sound: Sound) -> Iterator[soundfile.SoundFile]:
    """The streams of a file, opened one after the other; they have one rate and channel count."""
    form: tuple[int, int] | None = None
    with _in_words(sound):
        for part in parts(sound):
            with part.open() as file:
                # libsndfile shortens a cut file silently; only its log says what was promised.
                if _is_cut_short(file.extra_info):
                    raise UserError(
                        f"{sound}: cut short, the header promises more audio than follows"
                    )
                form = form or (file.samplerate, file.channels)
                if (file.samplerate, file.channels) != form:
                    raise UserError(
                        f"{sound}: joined of streams that differ ({form[0]:,} Hz of {form[1]} "
                        f"channels, {file.samplerate:,} Hz of {file.channels}); split it"
                    )
                yield file


@contextmanager
def _in_words(sound: Sound) -> Iterator[None]:
    try:
        yield
    except (soundfile.LibsndfileError, OSError) as error:
        raise UserError(f"{sound}: cannot be read as audio ({_reason(error, sound)})") from error


def _refuse_nonfinite(audio: np.ndarray) -> None:
    if not np.isfinite(audio).all():
        raise UserError(
            f"{int((~np.isfinite(audio)).sum()):,} of {audio.size:,} samples of audio are NaN or "
            "infinite and cannot be written; what made them is at fault"
        )


def _is_cut_short(log: str) -> bool:
    if "File ended unexpectedly" in log or "does not match value from 'ds64'" in log:
        return True
    sizes = (map(int, match.groups()) for match in _CHUNK_SIZE.finditer(log))
    return any(follows < promised < _PLACEHOLDER_BYTES for promised, follows in sizes)


# The line of a WAV, AIFF, AU or W64 header on its audio, when it disagrees with the file's size.
_CHUNK_SIZE = re.compile(
    r"^ *(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)", re.MULTILINE
)
# Programs that write WAV into a pipe do not know its length and put a huge number there.
_PLACEHOLDER_BYTES = 0x7FFF0000


def _reason(error: Exception, sound: Sound) -> str:
    text = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    if not isinstance(sound, SoundBytes) and not os.path.exists(sound):
        return "no such file"
    return text.strip().rstrip(".")
