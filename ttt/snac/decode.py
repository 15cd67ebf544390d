"""Codes to audio: whole clips with bounded memory, and codes that still arrive.

What the next codes can still change (the decoder's reach, about 0.2 s) is held back, and as much
context is kept before what was already given out. So the pieces put together are the decode of
all codes at once, whatever the chunks.

    stream = StreamingDecoder(model)
    for chunk in chunks:              # lists of [B, n * tokens_per_coarse[k]], n >= 0
        play(stream.push(chunk))      # [B, 1, samples], perhaps none yet
    play(stream.finish())

    for token in tokens:              # of an Orpheus-style model: ids or text
        play(stream.push_tokens(token))
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
from ttt.errors import UserError
from ttt.numerics import refuse_nonfinite_audio
from ttt.snac.config import ORPHEUS_BASE, ORPHEUS_ORDER
from ttt.snac.geometry import TARGET_RATE
from ttt.snac.layers.spans import Stage, run_span, with_folded_weights
from ttt.snac.model import Decoder48k, deterministic, interleaved_to_codes
from ttt.snac.orpheus.frames import BadFrame, FrameReader, Tokens
from ttt.snac.receptive_field import Reach

PIECE_COARSE = 64
"""Coarsest tokens decoded at once: 5.5 s of snac_24khz."""
LOW_LATENCY_FRAMES = 4
"""Coarsest tokens in a window of the streaming loop that Orpheus's authors published."""


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
    stream = _WholePieces(decoder, decoder.reach_samples_48k)
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


class _Pieces:
    """Holds back what later codes can change, and keeps the codes that what follows depends on."""

    def __init__(self, model: Decoder48k, reach_samples: int) -> None:
        self.model = model
        self._reach = reach_samples
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

        It is empty where what was pushed held no whole coarsest token. Raises ValueError when
        nothing was pushed.
        """
        if self._kept is None:
            raise ValueError("nothing to finish: push at least one coarsest token first")
        audio = self._emit(self.model.geometry.samples_48k(self._end_coarse))
        self._start_over()
        return audio

    def _decode(self, codes: Sequence[Tensor], wanted: tuple[int, int], offset: int) -> Tensor:
        """The samples `wanted` of the decode of `codes`, which begin at the stream's `offset`."""
        raise NotImplementedError

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
        wanted = self._emitted_samples - offset, final_samples - offset
        audio = self._decode(kept, wanted, offset)
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


class StreamingDecoder(_Pieces):
    """Decodes one batch of streams; SNAC's noise is off, since pieces decoded twice must agree.

    A noise floor is on: it follows from the sample's place in the stream. The model is taken as it
    is now: what is trained or moved later is not heard.

    With `low_latency` a window of four frames is decoded for each new one, and what is given out
    ends a frame and a half before its end, where the receptive field (2.3 frames to either side)
    is cut at both ends alike: the first audio comes after two frames in place of three. It is then
    near the decode of all codes at once and not equal to it (docs/decoder.md has the error).

    Args:
        base: id of code 0 at place 0 of a frame, for `push_tokens`.
        order: which column of an interleaved row each place of a frame holds.
    """

    def __init__(
        self,
        model: Decoder48k,
        *,
        low_latency: bool = False,
        base: int = ORPHEUS_BASE,
        order: Sequence[int] = ORPHEUS_ORDER,
    ) -> None:
        reach = model.reach_samples_48k
        if low_latency:
            reach = min(reach, model.geometry.samples_48k(LOW_LATENCY_FRAMES - 1) // 2)
        super().__init__(model, reach)
        self._tokens = base, tuple(order), model.geometry.codebook_size
        self._reader = FrameReader(*self._tokens)
        self._ended = False
        self._folded = with_folded_weights(model)
        self._stages = _stages(self._folded)

    def push_tokens(self, tokens: Tokens) -> Tensor:
        """Add one stream's tokens as they come, ids or text; the final audio [1, 1, samples].

        A damaged frame is left out, as in `ttt.snac.orpheus.to_codes`, and named in `bad_frames`;
        so is one with a code beyond the book of a codec that has fewer than 4,096. Raises
        ValueError for what is no token, and what `push` raises.
        """
        if self._ended:
            self._reader, self._ended = FrameReader(*self._tokens), False
        rows = torch.from_numpy(self._reader.push(tokens)).to(next(self.model.parameters()).device)
        return self.push(interleaved_to_codes(rows[None], self.model.geometry))

    @property
    def bad_frames(self) -> tuple[BadFrame, ...]:
        """The frames of this stream that were left out; after `finish`, of the one that ended."""
        return tuple(self._reader.bad)

    def finish(self) -> Tensor:
        """The rest of the audio; the decoder is then ready for new streams.

        Of tokens without a whole frame it is empty, and `bad_frames` says why. Raises UserError
        when tokens were pushed and none is one of the base, ValueError when nothing was pushed.
        """
        had_ended, self._ended = self._ended, True
        self._reader.finish()
        audio = super().finish()
        if not had_ended and audio.shape[-1] == 0:
            try:
                self._reader.refuse_no_token()
            except ValueError as error:
                raise UserError(f"the stream: {error}") from error
        return audio

    @torch.no_grad()
    def _decode(self, codes: Sequence[Tensor], wanted: tuple[int, int], offset: int) -> Tensor:
        with deterministic(self._folded):
            audio = run_span(self._stages, self._folded.latents(codes), *wanted)
        if self._folded.noise_floor is not None:
            self._folded.noise_floor.add_to(audio[:, 0], offset + wanted[0])
        return audio


class _WholePieces(_Pieces):
    """Decodes long pieces of a clip, each whole."""

    def _decode(self, codes: Sequence[Tensor], wanted: tuple[int, int], offset: int) -> Tensor:
        with deterministic(self.model):
            return self.model.decode(codes, first_sample=offset)[..., slice(*wanted)]


def _stages(model: Decoder48k) -> list[Stage]:
    """From latents to 48 kHz audio."""
    reach = model.head.reach(Reach(), Reach().through(model.tail))
    last = Stage(lambda hidden: model.output(hidden)[0], model.geometry.upsampling, reach)
    return [*(Stage.of(layer) for layer in model.body), last]
