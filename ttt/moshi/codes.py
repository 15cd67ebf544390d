"""Audio to Mimi's codes: a recording of any length streamed in constant memory, kept by content.

Mimi streams without a reset from the first sample of a recording to the last, also across the joins
of its pieces. In chunks of more than one latent step the published package's ring of keys loses
keys that the chunk's first steps still attend to; here the ring is longer by a chunk while
attention reaches no further, so that streamed codes are those of the whole file.

A recording's codes are stored under a hash of the audio files' bytes, the spans taken from them,
Mimi's weights, and the device and precision that they were computed with; silence under the latter
three. A code is the nearest of 2,048 vectors, so that another way of rounding moves some of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from moshi.models.compression import MimiModel
from moshi.modules.transformer import StreamingMultiheadAttention
from moshi.utils.compile import no_compile, no_cuda_graph
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from ttt import storage
from ttt.audio import (
    ChannelsCancel,
    Piece,
    mix_to_mono,
    read_audio_blocks,
    read_header,
    require_practical_ratio,
    resample,
)
from ttt.errors import UserError
from ttt.files.errors import FileIdentity
from ttt.moshi.streaming.state import start_streaming
from ttt.numerics import computed_with

Codes = npt.NDArray[np.int16]

_FORMAT = 1
_CHUNK_FRAMES = 25
_BLOCK_SECONDS = 30
_MARGIN_SECONDS = 1  # Many times the reach of the resampler, whatever the rates.
_SILENCE_AT_LEAST = 4096


@dataclass(frozen=True, eq=False)
class EncodedRecording:
    """A recording as Moshi hears it."""

    codes: Codes
    """[8, T]; codebook 0 is the semantic one."""
    joins: npt.NDArray[np.int64]
    """Frames in which a later piece of the recording begins, ascending."""
    sha256: str
    """Of the codes themselves: equal exactly when two models heard the same."""


def encode_recording(
    mimi: MimiModel,
    name: str,
    pieces: Sequence[Piece],
    cache: str | Path | None,
    weights_sha256: str,
) -> EncodedRecording:
    """The codes of pieces of audio in a row, from the folder `cache` where they are kept already.

    Audio of any rate and number of channels is mixed to mono and resampled to Mimi's rate with
    torchaudio's default filter. The last frame is filled up with zeros.

    Args:
        name: what a file of the cache says that it is.
        cache: folder for <hash>.safetensors files; None keeps nothing.
        weights_sha256: of `mimi_sha256`.

    Raises:
        UserError: a file of the recording cannot be read, its channels cancel, its rate has no
            practical ratio to Mimi's, or the cache is damaged.
    """
    path = None
    if cache is not None:
        path = Path(cache) / f"{_content_key(mimi, pieces, weights_sha256)}.safetensors"
        if path.exists():
            return _load_recording(path)
    starts: list[int] = []
    blocks = _encode_stream(mimi, _recording_audio(pieces, mimi.sample_rate, starts))
    codes = np.concatenate(list(blocks), axis=1)
    joins = np.unique(np.array(starts[1:], dtype=np.int64) // mimi.frame_size)
    result = EncodedRecording(codes, joins, codes_sha256(codes))
    if path is not None:
        metadata = {"chapter": name, "mimi": weights_sha256, "format": str(_FORMAT)}
        storage.write_bytes(path, save({"codes": codes, "joins": joins}, metadata))
    return result


def silence_codes(mimi: MimiModel, frames: int, cache: str | Path, weights_sha256: str) -> Codes:
    """Codes of `frames` frames of digital silence [8, frames].

    Made once per Mimi and kept in the folder `cache`; encoding is causal, so that every shorter
    silence is a prefix of the longest. Workers that ask at the same time wait for the one that
    makes it. Raises UserError for a damaged file.
    """
    made_by = "".join(f"-{word}" for word in _computed_with(mimi))
    name = f"silence-{weights_sha256[:16]}-{mimi.num_codebooks}{made_by}"
    path = Path(cache) / f"{name}.safetensors"
    kept = _load_silence(path, frames)
    if kept is None:
        with _lock(path.with_suffix(".lock")):
            kept = _load_silence(path, frames)
            if kept is None:
                length = max(_SILENCE_AT_LEAST, 1 << (frames - 1).bit_length())
                zeros = np.zeros(mimi.frame_size, dtype=np.float32)
                made = _encode_stream(mimi, (zeros for _ in range(length)))
                kept = np.concatenate(list(made), axis=1)
                storage.write_bytes(path, save({"codes": kept}, {"mimi": weights_sha256}))
    return kept[:, :frames]


@torch.no_grad()
def decode_codes(mimi: MimiModel, codes: Tensor) -> np.ndarray:
    """What codes [8, T] sound like: mono audio at Mimi's rate."""
    device = next(mimi.parameters()).device
    with _eagerly():
        return mimi.decode(codes[None].long().to(device))[0, 0].float().cpu().numpy()


def codes_sha256(codes: npt.NDArray[np.integer] | Tensor) -> str:
    """Identity of codes [8, T], whatever their integer type."""
    array = np.ascontiguousarray(np.asarray(codes), dtype="<i4")
    return hashlib.sha256(f"{array.shape}".encode() + array.tobytes()).hexdigest()


def padded(rows: Sequence[Codes]) -> tuple[Tensor, list[int]]:
    """[B, 8, longest] of codes [8, T]: zeros after the shorter ones' end; and the lengths."""
    lengths = [row.shape[1] for row in rows]
    codes = np.zeros((len(rows), rows[0].shape[0], max(lengths)), dtype=np.int16)
    for place, row in zip(codes, rows, strict=True):
        place[:, : row.shape[1]] = row
    return torch.from_numpy(codes), lengths


def mimi_sha256(mimi: MimiModel) -> str:
    """Identity of Mimi's encoder and codebooks: names, shapes and bytes of all tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(mimi.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _encode_stream(mimi: MimiModel, audio: Iterable[np.ndarray]) -> Iterator[Codes]:
    """Codes [8, n] of mono audio at Mimi's rate that arrives in blocks of any length.

    Every chunk has the same shape; the zeros that fill up the last one change nothing before them,
    and their frames are dropped.
    """
    parameter = next(mimi.parameters())
    chunk_samples = _CHUNK_FRAMES * mimi.frame_size
    with _streaming(mimi, _CHUNK_FRAMES):
        for chunk in _rechunked(audio, chunk_samples):
            frames = -(-len(chunk) // mimi.frame_size)
            filled = np.pad(chunk, (0, chunk_samples - len(chunk)))
            with _eagerly():
                codes = mimi.encode(torch.from_numpy(filled)[None, None].to(parameter))
            yield codes[0, :, :frames].to(torch.int16).cpu().numpy()


@contextmanager
def _streaming(mimi: MimiModel, chunk_frames: int) -> Iterator[None]:
    """Mimi streaming with rings that hold a chunk more than attention reaches."""
    steps = round(chunk_frames * mimi.encoder_frame_rate / mimi.frame_rate)
    layers = [
        (module, module.context)
        for module in mimi.modules()
        if isinstance(module, StreamingMultiheadAttention) and module.context is not None
    ]
    for layer, context in layers:
        layer.context = context + steps
    try:
        streaming = start_streaming(mimi, 1)
    finally:
        for layer, context in layers:
            layer.context = context
    with streaming:
        yield


@contextmanager
def _eagerly() -> Iterator[None]:
    """No compiling, which needs a C compiler, and no CUDA graphs, captured anew per recording."""
    with no_compile(), no_cuda_graph():
        yield


def _recording_audio(pieces: Sequence[Piece], rate: int, starts: list[int]) -> Iterator[np.ndarray]:
    """Mono audio at `rate` in blocks; notes in `starts` the sample at which each piece begins."""
    written = 0
    for piece in pieces:
        starts.append(written)
        for block in _piece_audio(piece, rate):
            written += len(block)
            yield block


def _piece_audio(piece: Piece, rate: int) -> Iterator[np.ndarray]:
    """A piece resampled block by block: as the whole, since blocks overlap by a margin."""
    try:
        require_practical_ratio(piece.rate, rate)
    except UserError as error:
        raise UserError(f"{piece.path}: {error}") from error
    block, margin = _BLOCK_SECONDS * piece.rate, _MARGIN_SECONDS * piece.rate
    audio = _mono_blocks(piece, block)
    before = np.zeros(0, dtype=np.float32)
    current = next(audio, None)
    while current is not None:
        following = next(audio, None)
        after = following[:margin] if following is not None else before[:0]
        whole = torch.from_numpy(np.concatenate([before, current, after]))
        made = resample(whole, piece.rate, rate)
        # Blocks and margins last whole seconds, so that the cuts fall on samples of both rates.
        first = len(before) // piece.rate * rate
        last = first + _BLOCK_SECONDS * rate if following is not None else len(made)
        yield made[first:last].numpy()
        before, current = current[-margin:], following


def _mono_blocks(piece: Piece, block_samples: int) -> Iterator[np.ndarray]:
    """A piece in blocks at its own rate, its channels mixed."""
    for block in read_audio_blocks(piece.path, block_samples, piece.start, piece.stop):
        try:
            yield mix_to_mono(block)
        except ChannelsCancel as error:
            raise UserError(f"{piece.path}: {error}") from error


def _rechunked(blocks: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """The same samples in chunks of `length`; the last may be shorter."""
    waiting: list[np.ndarray] = []
    held = 0
    for block in blocks:
        waiting.append(block)
        held += len(block)
        if held < length:
            continue
        joined = np.concatenate(waiting)
        whole = held - held % length
        yield from joined[:whole].reshape(-1, length)
        waiting, held = [joined[whole:]], held - whole
    if held:
        yield np.concatenate(waiting)


def _content_key(mimi: MimiModel, pieces: Sequence[Piece], weights_sha256: str) -> str:
    """Of everything the codes depend on; not of the recording's name or place."""
    files: dict[str, str] = {}
    for piece in pieces:
        if piece.path not in files:
            files[piece.path] = FileIdentity.of(piece.path).sha256
    spans = [[files[piece.path], piece.start, piece.stop] for piece in pieces]
    content = [_FORMAT, weights_sha256, mimi.num_codebooks, spans, *_computed_with(mimi)]
    if any(read_header(path).channels > 1 for path in files):
        content.append("mix checked")  # Older codes may be of channels that cancelled.
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _computed_with(mimi: MimiModel) -> list[str]:
    """What codes depend on beside weights and audio: device and precision.

    Nothing for float32 on a CPU, as in the names of the codes that were kept before this was asked.
    """
    made_by = [*computed_with(next(mimi.parameters()))]
    return [] if made_by == ["cpu", "float32"] else made_by


def _load_recording(path: Path) -> EncodedRecording:
    with _opened(path) as file:
        codes, joins = file.get_tensor("codes"), file.get_tensor("joins")
    return EncodedRecording(codes, joins, codes_sha256(codes))


def _load_silence(path: Path, frames: int) -> Codes | None:
    """The kept silence, or None when it is too short or not there."""
    if not path.exists():
        return None
    with _opened(path) as file:
        piece = file.get_slice("codes")
        return file.get_tensor("codes") if piece.get_shape()[1] >= frames else None


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, "numpy") as file:
            yield file
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}); delete it to encode again") from error


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time; the system lets go when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
