"""Whole clips of codes to audio with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from ttt import storage
from ttt.audio import to_int16
from ttt.snac.geometry import TARGET_RATE
from ttt.snac.model import Decoder48k, interleaved_to_codes
from ttt.snac.streaming import StreamingDecoder

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
