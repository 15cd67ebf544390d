"""Folders of audio as inputs of a cache, and how one input becomes a clip.

Folder: one recording of at least 44.1 kHz per clip; its 48 kHz version is the target and the
24 kHz version of that is encoded. Pair: one folder is encoded, another holds the restored
48 kHz targets, matched by path without suffix.

Restoration programs delay, scale and filter. The lag of a pair is where the cross-correlation of
source and target peaks, read on the 48 kHz grid; the gain is the least-squares factor that brings
the shifted target nearest to the source. Both are corrected on the target and recorded per clip.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch

from ttt import storage
from ttt.audio import (
    ChannelsCancel,
    mix_to_mono,
    read_audio,
    read_header,
    require_practical_ratio,
    resample,
    to_int16,
)
from ttt.errors import UserError
from ttt.files.walk import find_files, suffix_of
from ttt.snac.cache.inputs import MIN_TARGET_RATE, ClipInput, LeftOut, PreparedClip, QualityConfig
from ttt.snac.cache.roots.places import open_clip
from ttt.snac.config import AlignConfig
from ttt.snac.geometry import TARGET_RATE, CodeGeometry
from ttt.sound.splice import Sound

# fmt: off
AUDIO_SUFFIXES = frozenset({
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd",
    ".caf", ".w64", ".rf64", ".wv", ".sph", ".nist", ".voc", ".m4a", ".aac", ".mp4", ".wma",
    ".ape", ".webm",
})
# fmt: on
"""Files with these suffixes are inputs; those that libsndfile cannot read end in the manifest."""

NOTABLE_GAIN_DB = 1.0
"""A gain correction beyond this is noted in the manifest and counted in the summary."""


def list_folder(folder: str) -> list[ClipInput]:
    """Every audio file below `folder`, sorted by path, which is the clip id.

    What `ttt.files.walk` finds a problem with is an input with that problem. Raises UserError when
    the folder is missing or holds no audio file.
    """
    return [
        ClipInput(clip_id=path, source=os.path.join(folder, path), **_problem(note))
        for path, note in _audio_files(folder).items()
    ]


def list_pairs(source_folder: str, target_folder: str) -> list[ClipInput]:
    """Every file of both folders, joined where the paths without suffix agree.

    Files without a partner, and paths that occur with two suffixes, are inputs with a problem, as
    in `list_folder`. Sorted by path; a clip's id is its source's path. Raises UserError as
    `list_folder` does.
    """
    sources, targets = _audio_files(source_folder), _audio_files(target_folder)
    target_of = {_stem(path): path for path in targets}
    n_sources, n_targets = Counter(map(_stem, sources)), Counter(map(_stem, targets))
    inputs = []
    for path, problem in sources.items():
        stem, source = _stem(path), os.path.join(source_folder, path)
        if problem is not None:
            clip = ClipInput(clip_id=path, source=source, **_problem(f"source: {problem}"))
        elif n_sources[stem] > 1 or n_targets[stem] > 1:
            note = f"{n_sources[stem]} sources and {n_targets[stem]} targets are named {stem}"
            clip = ClipInput(clip_id=path, source=source, problem="duplicate", problem_note=note)
        elif stem not in target_of:
            note = f"no {stem}.* in the target folder"
            clip = ClipInput(clip_id=path, source=source, problem="no partner", problem_note=note)
        else:
            target = os.path.join(target_folder, target_of[stem])
            problem = targets[target_of[stem]]
            note = None if problem is None else f"target: {problem}"
            clip = ClipInput(clip_id=path, source=source, target=target, **_problem(note))
        inputs.append(clip)
    for path in targets:
        if _stem(path) not in n_sources:
            note = f"no {_stem(path)}.* in the source folder"
            target = os.path.join(target_folder, path)
            inputs.append(
                ClipInput(clip_id=path, target=target, problem="no partner", problem_note=note)
            )
    return sorted(inputs, key=lambda clip: clip.clip_id)


def prepare_recording(
    clip: ClipInput, geometry: CodeGeometry, quality: QualityConfig, column: str | None = None
) -> PreparedClip:
    """A recording as its 48 kHz target and the version at the codec's rate.

    `column` of a parquet file holds its sound. Raises what `open_clip` raises, and LeftOut.
    """
    target, notes = load_mono(open_clip(clip, column), TARGET_RATE, MIN_TARGET_RATE, quality)
    source = resample(torch.from_numpy(target), TARGET_RATE, geometry.sample_rate, sharp=True)
    return PreparedClip(
        clip_id=clip.clip_id,
        source=source.numpy(),
        audio=to_int16(target),
        notes=(*notes, *saturation_notes(target)),
    )


def prepare_pair(
    clip: ClipInput, geometry: CodeGeometry, quality: QualityConfig, align: AlignConfig
) -> PreparedClip:
    """A source and its restored target, with lag and gain corrected. Raises LeftOut."""
    rate = geometry.sample_rate
    source, source_notes = load_mono(clip.source, rate, rate, quality, "source: ")
    target, target_notes = load_mono(clip.target, TARGET_RATE, MIN_TARGET_RATE, quality, "target: ")
    pair = align_pair(source, target, geometry, align)
    seconds = len(pair.target) / TARGET_RATE
    quality.check_length(seconds)
    quality.check_level(pair.target, seconds, "target after its gain: ")
    notes = [*source_notes, *target_notes]
    if abs(pair.gain_db) >= NOTABLE_GAIN_DB:
        notes.append(f"target: gain {pair.gain_db:+.2f} dB applied")
    return PreparedClip(
        clip_id=clip.clip_id,
        source=pair.source,
        audio=to_int16(pair.target),
        gain_db=pair.gain_db,
        lag_samples=pair.lag_samples,
        notes=(*notes, *saturation_notes(pair.target)),
    )


def load_mono(
    sound: Sound, rate: int, min_rate: int, quality: QualityConfig, name: str = ""
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A file as mono float32 [samples] at `rate`, and notes on what was done to it.

    `name` begins the notes where a clip has two files. Raises LeftOut when the file cannot be
    read, its rate is below `min_rate`, or `quality` refuses its length or level.
    """
    try:
        header = read_header(sound)
        quality.check_length(header.seconds)
        _check_rate(header.rate, rate, min_rate, name, header.seconds)
        audio, file_rate = read_audio(sound)
    except UserError as error:
        raise LeftOut("unreadable", str(error)) from error
    seconds = audio.shape[1] / file_rate
    quality.check_length(seconds)
    quality.check_level(audio, seconds, name)
    notes = []
    if len(audio) > 1:
        notes.append(f"{name}{len(audio)} channels mixed to mono")
    try:
        mono = mix_to_mono(audio)
    except ChannelsCancel as error:
        raise LeftOut("channels cancel", f"{name}{error}", seconds) from error
    if len(audio) > 1:
        quality.check_level(mono, seconds, f"{name}mixed to mono: ")
    if file_rate != rate:
        notes.append(f"{name}resampled from {file_rate:,} Hz")
        mono = resample(torch.from_numpy(mono), file_rate, rate, sharp=True).numpy()
    return mono, tuple(notes)


def saturation_notes(audio: np.ndarray) -> tuple[str, ...]:
    """A note when float audio passes full scale, where int16 will saturate."""
    count = int((np.abs(audio) > 1).sum())
    return (f"{count:,} samples saturated",) if count else ()


def _audio_files(folder: str) -> dict[str, str | None]:
    """Path below `folder` -> why it cannot be read, or None; sorted by path.

    A cache's shards are cut in this order, so it stays what it was for caches made before.
    """
    if not storage.is_local(folder):
        raise UserError(
            f"{folder}: input folders must be local paths; mount or copy it first, or name its "
            "files in a manifest (input.kind: manifest)"
        )
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; give the folder that holds the audio")
    found = {each.path: each.problem for each in find_files(folder, AUDIO_SUFFIXES)}
    if not found:
        raise UserError(
            f"{folder}: holds no audio file, at any depth; files count as audio by their suffix "
            f"(.wav, .flac, .ogg, .opus, .mp3, .aiff, ...){_other_kind(folder)}"
        )
    return dict(sorted(found.items()))


def _other_kind(folder: str) -> str:
    """What to do about a folder of files that hold audio for another kind of input."""
    kinds = {suffix_of(each.path)[1:] for each in find_files(folder, (".parquet", ".tar"))}
    return "".join(f"; for its .{kind} files set input.kind: {kind}" for kind in sorted(kinds))


def _check_rate(file_rate: int, rate: int, min_rate: int, name: str, seconds: float) -> None:
    if file_rate < min_rate:
        raise LeftOut(
            "wrong rate", f"{name}{file_rate:,} Hz, at least {min_rate:,} needed", seconds
        )
    try:
        require_practical_ratio(file_rate, rate)
    except UserError as error:
        raise LeftOut("wrong rate", f"{name}{error}", seconds) from error


def _problem(note: str | None) -> dict[str, Any]:
    """The fields of an input that cannot be read; none where nothing is wrong."""
    return {} if note is None else {"problem": "unreadable", "problem_note": note}


def _stem(path: str) -> str:
    """By which a source and its target know each other, whoever wrote the accents of the name."""
    return unicodedata.normalize("NFC", PurePosixPath(path).with_suffix("").as_posix())


@dataclass(frozen=True, eq=False)
class AlignedPair:
    """Source and target over the time that both cover."""

    source: np.ndarray
    """float32 [ceil(n_samples / 2)] at the codec's rate."""
    target: np.ndarray
    """float32 [n_samples] at 48 kHz, shifted and scaled."""
    lag_samples: int
    """48 kHz samples by which the target was late (negative: early)."""
    gain_db: float
    """Gain that was applied to the target."""
    correlation: float
    """Normalised correlation at that lag, at most 1."""


def align_pair(
    source: np.ndarray, target: np.ndarray, geometry: CodeGeometry, config: AlignConfig
) -> AlignedPair:
    """Align `target` (float32 at 48 kHz) with `source` (float32 at the codec's rate).

    Raises LeftOut "lag not found" when no lag within the limit makes them alike.
    """
    lag, correlation = _find_lag(source, target, geometry, config)
    limit = round(config.max_lag_seconds * TARGET_RATE)
    if correlation < config.min_correlation or abs(lag) >= limit:
        note = f"correlation peaks at {correlation:.2f} with a lag of {lag / TARGET_RATE:.4f} s"
        raise LeftOut("lag not found", note)
    # A late target loses its beginning; for an early one the source does, because the target
    # holds nothing for it. What remains of an odd lag is shifted on the target.
    step = geometry.upsampling
    skipped = math.ceil(max(-lag, 0) / step)
    source, target = source[skipped:], target[lag + skipped * step :]
    n_samples = min(len(target), len(source) * step)
    source, target = source[: math.ceil(n_samples / step)], target[:n_samples]
    low = _at_codec_rate(target, geometry)
    gain = float(_dot(source, low) / _dot(low, low))
    return AlignedPair(
        source=source,
        target=target * np.float32(gain),
        lag_samples=lag,
        gain_db=20 * math.log10(gain),
        correlation=correlation,
    )


def _find_lag(
    source: np.ndarray, target: np.ndarray, geometry: CodeGeometry, config: AlignConfig
) -> tuple[int, float]:
    """The lag (48 kHz samples) of the highest cross-correlation, and its normalised height."""
    low = _at_codec_rate(target, geometry)
    reach = math.ceil(config.max_lag_seconds * geometry.sample_rate)
    step = geometry.upsampling
    # Block by block with a margin of the longest lag: the exact sum, in bounded memory.
    block = max(4 * reach, _BLOCK_SAMPLES)
    size = 1 << (block + 2 * reach - 1).bit_length()
    padded = np.pad(low, (reach, max(0, len(source) - len(low)) + reach))
    correlation = np.zeros(2 * reach * step + 1)
    for start in range(0, len(source), block):
        piece = np.fft.rfft(source[start : start + block], size)
        around = np.fft.rfft(padded[start : start + block + 2 * reach], size)
        # A longer inverse transform reads the correlation between the samples as well.
        correlation += np.fft.irfft(piece.conj() * around, size * step)[: len(correlation)] * step
    peak = int(correlation.argmax())
    norm = math.sqrt(_dot(source, source) * _dot(low, low))
    return peak - reach * step, float(correlation[peak] / norm) if norm > 0 else 0.0


_BLOCK_SAMPLES = 2**19


def _at_codec_rate(target: np.ndarray, geometry: CodeGeometry) -> np.ndarray:
    low = resample(torch.from_numpy(target), TARGET_RATE, geometry.sample_rate, sharp=True)
    return low.numpy()


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.dot(a.astype(np.float64), b.astype(np.float64)))
