"""The original project's cache as inputs: codes that exist already, and restored 48 kHz wavs.

codes_batch_gpu{g}_{n}.parquet hold file_path (a bare file name), codes_scale_0..2 list<int64> and
audio_length (samples at 24 kHz); the audio is audio_folder/file_path. metadata.json beside them
names strides that its codes contradict: lengths decide here, and metadata.json is not read.
"""

from __future__ import annotations

import functools
import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ttt import storage
from ttt.audio import to_int16
from ttt.errors import UserError
from ttt.files.errors import reading_column_types
from ttt.snac.cache.inputs import MIN_TARGET_RATE, ClipInput, LeftOut, PreparedClip, QualityConfig
from ttt.snac.cache.sources import load_mono, saturation_notes
from ttt.snac.geometry import TARGET_RATE, CodeGeometry, Codes


def list_original(
    codes_folder: str, audio_folder: str, geometry: CodeGeometry
) -> tuple[list[ClipInput], list[str]]:
    """Every row of every codes parquet in file order, and sentences on what was ignored.

    file_path is a bare name, so two rows may name the same wav; the rows after the first are
    inputs with the problem "duplicate". Raises UserError when there is no codes parquet, one is
    damaged or lacks a column, or the audio folder is missing.
    """
    if not os.path.isdir(audio_folder):
        raise UserError(f"{audio_folder}: no such folder; give the folder with the 48 kHz wavs")
    inputs: list[ClipInput] = []
    first_row: dict[str, str] = {}
    for path in _codes_files(codes_folder):
        names = _open(path, geometry).read(["file_path"])["file_path"].to_pylist()
        for row, name in enumerate(names):
            place = f"row {row} of {os.path.basename(path)}"
            if not name:
                inputs.append(_nameless(place))
                continue
            clip = ClipInput(
                clip_id=name, source=path, target=os.path.join(audio_folder, name), row=row
            )
            if name in first_row:
                clip = ClipInput(
                    clip_id=f"{name} ({place})",
                    problem="duplicate",
                    problem_note=f"{first_row[name]} names the same wav",
                )
            first_row.setdefault(name, place)
            inputs.append(clip)
    notes = []
    if os.path.exists(os.path.join(codes_folder, "metadata.json")):
        notes.append("metadata.json is ignored: its strides and counts contradict the codes")
    return inputs, notes


def prepare_original(
    clip: ClipInput, geometry: CodeGeometry, quality: QualityConfig
) -> PreparedClip:
    """The codes of one row and the audio they belong to. Raises LeftOut."""
    codes, audio_length = _read_row(clip.source, clip.row, geometry)
    if not os.path.exists(clip.target):
        raise LeftOut("no partner", f"{clip.target} does not exist")
    target, notes = load_mono(clip.target, TARGET_RATE, MIN_TARGET_RATE, quality)
    seconds = len(target) / TARGET_RATE
    n_coarse = geometry.n_coarse_of([len(scale) for scale in codes])
    unit = geometry.coarse_samples
    # The original encoded unpadded audio, so the last token may be missing or partly padding.
    if abs(geometry.samples(n_coarse) - audio_length) >= unit:
        note = f"codes last {geometry.samples(n_coarse)} samples, audio_length is {audio_length}"
        raise LeftOut("misaligned codes", note, seconds)
    if abs(len(target) - audio_length * geometry.upsampling) >= geometry.coarse_samples_48k:
        note = (
            f"the wav lasts {len(target)} samples at 48 kHz, "
            f"audio_length {audio_length} needs {audio_length * geometry.upsampling}"
        )
        raise LeftOut("misaligned codes", note, seconds)
    audio = target[: geometry.samples_48k(n_coarse)]
    return PreparedClip(
        clip_id=clip.clip_id,
        codes=codes,
        audio=to_int16(audio),
        notes=(*notes, *saturation_notes(audio)),
    )


def _nameless(place: str) -> ClipInput:
    return ClipInput(clip_id=f"({place})", problem="no partner", problem_note="names no wav")


def _read_row(path: str, row: int, geometry: CodeGeometry) -> tuple[Codes, int]:
    """Codes of a row as int16 by scale, and its audio_length. Raises LeftOut."""
    table = _table(path, geometry)
    scales = [
        np.asarray(table[name][row].values.to_numpy(zero_copy_only=False))
        for name in _code_columns(geometry)
    ]
    lengths = [len(scale) for scale in scales]
    try:
        n_coarse = geometry.n_coarse_of(lengths)
    except ValueError as error:
        raise LeftOut("misaligned codes", str(error)) from error
    if n_coarse == 0:
        raise LeftOut("misaligned codes", "the row holds no code")
    for scale, values in enumerate(scales):
        if values.min() < 0 or values.max() >= geometry.codebook_size:
            note = (
                f"scale {scale} runs from {values.min()} to {values.max()}, "
                f"the codebook from 0 to {geometry.codebook_size - 1}"
            )
            raise LeftOut("codes out of range", note)
    return tuple(values.astype(np.int16) for values in scales), table["audio_length"][row].as_py()


@functools.lru_cache(maxsize=2)
def _table(path: str, geometry: CodeGeometry) -> pa.Table:
    # Rows of a shard come one after the other: the file they share is read once.
    columns = [*_code_columns(geometry), "audio_length"]
    return _open(path, geometry).read(columns).combine_chunks()


def _open(path: str, geometry: CodeGeometry) -> pq.ParquetFile:
    try:
        with reading_column_types():
            file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable parquet file ({reason})") from error
    wanted = ["file_path", *_code_columns(geometry), "audio_length"]
    missing = [name for name in wanted if name not in file.schema_arrow.names]
    if missing:
        raise UserError(
            f"{path}: lacks the columns {', '.join(missing)} of an original cache; "
            f"it has {', '.join(file.schema_arrow.names)}"
        )
    for name in wanted:
        kind = file.schema_arrow.field(name).type
        if not _is_plain(kind, name):
            # Values of Ray's own column types are pickles: reading one would run its code.
            raise UserError(
                f"{path}: column {name} holds {kind}; an original cache has text in file_path, "
                "a whole number in audio_length and lists of them in the codes"
            )
    return file


def _is_plain(kind: pa.DataType, name: str) -> bool:
    if name == "file_path":
        return pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if name == "audio_length":
        return pa.types.is_integer(kind)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return is_list and pa.types.is_integer(kind.value_type)


def _codes_files(folder: str) -> list[str]:
    """codes_batch_gpu{g}_{n}.parquet in `folder`, by g and n as numbers."""
    if not storage.is_local(folder):
        raise UserError(f"{folder}: input folders must be local paths; mount or copy it first")
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; give the folder with codes_batch_gpu*.parquet")
    names = [name for name in os.listdir(folder) if _CODES_FILE.fullmatch(name)]
    if not names:
        raise UserError(f"{folder}: holds no codes_batch_gpu*.parquet")
    names.sort(key=lambda name: ([int(digits) for digits in re.findall(r"\d+", name)], name))
    return [os.path.join(folder, name) for name in names]


_CODES_FILE = re.compile(r"codes_batch_gpu.*\.parquet", re.IGNORECASE | re.DOTALL)


def _code_columns(geometry: CodeGeometry) -> list[str]:
    return [f"codes_scale_{scale}" for scale in range(len(geometry.strides))]
