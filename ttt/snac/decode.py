"""Codes to audio: whole clips with bounded memory, and codes that still arrive.

What the next codes can still change (the decoder's reach, about 0.2 s) is held back, and as much
context is kept before what was already given out. So the pieces put together are the decode of
all codes at once, whatever the chunks.

    stream = StreamingDecoder(model)
    for chunk in chunks:              # lists of [B, n * tokens_per_coarse[k]], n >= 0
        play(stream.push(chunk))      # [B, 1, samples], perhaps none yet
    play(stream.finish())
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from ttt import storage
from ttt.audio import to_int16
from ttt.numerics import refuse_nonfinite_audio
from ttt.snac.geometry import TARGET_RATE
from ttt.snac.model import Decoder48k, deterministic, interleaved_to_codes

PIECE_COARSE = 64
"""Coarsest tokens decoded at once: 5.5 s of snac_24khz."""


def decode_pieces(
    decoder: Decoder48k, codes: np.ndarray, piece_coarse: int = PIECE_COARSE
) -> Iterator[Tensor]:
    """The decode of interleaved codes [n, codes_per_coarse], in pieces of 48 kHz audio [t].

    Together they are samples_48k(n) samples on the decoder's device, equal to the decode of all
    codes at once (noise off); memory stays that of a piece.
    """
    for piece in decode_channels(decoder, codes, piece_coarse):
        yield piece[0]


def decode_channels(
    decoder: Decoder48k, codes: np.ndarray, piece_coarse: int = PIECE_COARSE
) -> Iterator[Tensor]:
    """`decode_pieces` with all channels of a head that has several: pieces [channels, t]."""
    stream = StreamingDecoder(decoder)
    device = next(decoder.parameters()).device
    for start in range(0, len(codes), piece_coarse):
        chunk = torch.from_numpy(codes[start : start + piece_coarse]).to(device)
        yield stream.push(interleaved_to_codes(chunk[None], decoder.geometry))[0]
    yield stream.finish()[0]


def write_decoded(
    decoder: Decoder48k, codes: np.ndarray, path: Path, n_samples: int | None = None
) -> float:
    """Decode interleaved codes [n, codes_per_coarse] into a 16-bit 48 kHz WAV file.

    Only the first `n_samples` are written when it is given (the rest is the codec's padding).
    The file is whole or not there. Returns its seconds; raises UserError when the disk is full.
    """
    left = decoder.geometry.samples_48k(len(codes)) if n_samples is None else n_samples
    written = 0
    with (
        storage.atomic_path(path) as temporary,
        soundfile.SoundFile(
            temporary, "w", samplerate=TARGET_RATE, channels=1, format="WAV", subtype="PCM_16"
        ) as file,
    ):
        for piece in decode_pieces(decoder, codes):
            samples = to_int16(piece[: left - written].float().cpu().numpy())
            file.write(samples)
            written += len(samples)
    return written / TARGET_RATE


class StreamingDecoder:
    """Decodes one batch of streams; SNAC's noise is off, since pieces decoded twice must agree.

    A noise floor is on: it follows from the sample's place in the stream.
    """

    def __init__(self, model: Decoder48k) -> None:
        self.model = model
        self._reach = model.reach_samples_48k
        self._start_over()

    def push(self, codes: Sequence[Tensor]) -> Tensor:
        """Add codes of whole coarsest tokens; the 48 kHz audio [B, 1, samples] that is now final.

        Raises ValueError for codes of the wrong shape, range or batch size, UserError for audio
        that is NaN or infinite.
        """
        n_coarse = self.model.geometry.n_coarse_of([scale.shape[-1] for scale in codes])
        if n_coarse > 0:
            self.model.check_codes(codes)
        if self._kept is None:
            self._kept = [scale[:, :0] for scale in codes]
        if len(codes[0]) != len(self._kept[0]):
            raise ValueError(
                f"{len(self._kept[0])} streams were begun, this chunk has {len(codes[0])}"
            )
        self._kept = [
            torch.cat([old, new], dim=1) for old, new in zip(self._kept, codes, strict=True)
        ]
        self._end_coarse += n_coarse
        return self._emit(self.model.geometry.samples_48k(self._end_coarse) - self._reach)

    def finish(self) -> Tensor:
        """The rest of the audio; the decoder is then ready for new streams.

        Raises ValueError when no codes were pushed.
        """
        if self._end_coarse == 0:
            raise ValueError("nothing to finish: push at least one coarsest token first")
        audio = self._emit(self.model.geometry.samples_48k(self._end_coarse))
        self._start_over()
        return audio

    def _start_over(self) -> None:
        self._kept: list[Tensor] | None = None
        self._first_coarse = 0
        self._end_coarse = 0
        self._emitted_samples = 0

    def _emit(self, final_samples: int) -> Tensor:
        geometry, kept = self.model.geometry, self._kept
        assert kept is not None
        if final_samples <= self._emitted_samples:
            weight = next(self.model.parameters())
            return weight.new_zeros(len(kept[0]), 1, 0)
        offset = geometry.samples_48k(self._first_coarse)
        with deterministic(self.model):
            audio = self.model.decode(kept, first_sample=offset)
        audio = audio[..., self._emitted_samples - offset : final_samples - offset]
        refuse_nonfinite_audio(audio, "the decoder")
        self._emitted_samples = final_samples
        self._forget(geometry.coarse_at_48k(max(0, final_samples - self._reach)))
        return audio

    def _forget(self, first_coarse: int) -> None:
        """Drop the codes before `first_coarse`, which nothing to come depends on."""
        assert self._kept is not None
        dropped = self.model.geometry.lengths(first_coarse - self._first_coarse)
        self._kept = [scale[:, n:] for scale, n in zip(self._kept, dropped, strict=True)]
        self._first_coarse = first_coarse
