"""One shard: the parquet file that holds the codes of about 1,000 clips and their 48 kHz audio.

Shards are uncompressed and the audio is PLAIN, one page per row group, so that the samples of a
clip are contiguous in the file and a window of them is one read (ttt.files.ranged).

Columns, none nullable: clip_id string, n_coarse int32, n_samples int32, codes_0/1/2 list<int16>,
audio binary (int16 little-endian mono), gain_db float32, lag_samples int32, crc32 uint32. The
schema metadata name the geometry, the codec and the format version. More columns may follow,
which are null where nothing is known and absent where nothing is known of any clip of the shard:
speaker string, bandwidth_hz int32 (how far up the clip's sound reaches), and of copies at other
levels copy_of string (the id of the clip, behind which its copies stand) and copy_gain_db float32.

Shapes: n = coarsest tokens of a clip; scale k holds n * tokens_per_coarse[k] codes; audio holds
samples_48k(n) samples, of which the first n_samples are real and the rest zeros.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ttt.errors import UserError
from ttt.files.parquets import open_parquet, plain_parquet, refuse_wrong_columns
from ttt.snac.geometry import CodeGeometry

FORMAT_VERSION = 1
ROW_GROUP_CLIPS = 64
ROW_GROUP_BYTES = 512 * 2**20
"""A row group ends at whichever comes first."""
MAX_CLIP_BYTES = 2**31 - 2**20
"""Parquet counts the bytes of a page in 31 bits, and one page holds a row group's audio."""
SAMPLE_BYTES = 2
FACT_COLUMNS: dict[str, pa.DataType] = {
    "speaker": pa.string(),
    "bandwidth_hz": pa.int32(),
    "copy_of": pa.string(),
    "copy_gain_db": pa.float32(),
}
"""Columns of what may be unknown; a shard without a column knows it of no clip."""


@dataclass(frozen=True)
class CodecIdentity:
    """Which codec made the codes."""

    name: str
    weights_sha256: str


@dataclass(frozen=True, eq=False)
class Clip:
    """One clip, ready to be stored."""

    clip_id: str
    codes: tuple[np.ndarray, ...]
    """int16 [n * tokens_per_coarse[k]] for each scale k, coarsest first."""
    audio: np.ndarray
    """int16 [n_samples], the real samples at 48 kHz; at most samples_48k(n)."""
    n_samples: int
    gain_db: float = 0.0
    """Gain that was applied to the audio so that it matches the codes' source."""
    lag_samples: int = 0
    """48 kHz samples by which the audio was shifted so that it matches the codes' source."""
    speaker: str | None = None
    """Who speaks; None when that is unknown."""
    bandwidth_hz: int | None = None
    """How far up the audio's sound reaches; None when that is unknown."""
    copy_of: str | None = None
    """The id of the clip that this is a copy of, at another level; None when it is none."""
    copy_gain_db: float | None = None
    """The gain of a copy."""


@dataclass(frozen=True)
class ShardHeader:
    """What the schema metadata of a shard says of all its clips."""

    geometry: CodeGeometry
    codec: CodecIdentity


def write_shard(
    uri: str | Path, clips: Sequence[Clip], geometry: CodeGeometry, codec: CodecIdentity
) -> None:
    """Write one shard, whole or not at all; the same clips give the same bytes.

    Audio shorter than the codes is padded with zeros at its end. Raises UserError for a clip
    that does not fit the geometry, naming it.
    """
    known = [name for name in FACT_COLUMNS if any(getattr(c, name) is not None for c in clips)]
    schema = shard_schema(ShardHeader(geometry, codec), known)
    with plain_parquet(uri, schema) as writer:
        for group in _row_groups(clips, geometry):
            rows = [_row(clip, geometry) for clip in group]
            writer.write_table(pa.Table.from_pylist(rows, schema), row_group_size=len(rows))


def read_shard_table(uri: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A shard's columns (all by default). Raises UserError when it is damaged or no shard."""
    with open_parquet(uri) as shard:
        return shard.read(columns=list(columns) if columns is not None else None)


def shard_schema(header: ShardHeader, facts: Collection[str] = ()) -> pa.Schema:
    """The columns of a shard, `facts` of FACT_COLUMNS among them; the header in the metadata."""
    codes = [
        pa.field(name, pa.list_(pa.field("element", pa.int16(), False)), False)
        for name in code_columns(header.geometry)
    ]
    return pa.schema(
        [
            pa.field("clip_id", pa.string(), False),
            pa.field("n_coarse", pa.int32(), False),
            pa.field("n_samples", pa.int32(), False),
            *codes,
            pa.field("audio", pa.binary(), False),
            pa.field("gain_db", pa.float32(), False),
            pa.field("lag_samples", pa.int32(), False),
            pa.field("crc32", pa.uint32(), False),
            *(pa.field(name, kind) for name, kind in FACT_COLUMNS.items() if name in facts),
        ],
        metadata={
            "ttt.format_version": str(FORMAT_VERSION),
            "ttt.geometry": header.geometry.to_json(),
            "ttt.codec": json.dumps(asdict(header.codec)),
        },
    )


def shard_header(schema: pa.Schema, uri: str | Path) -> ShardHeader:
    """The header in a shard's or an index's schema.

    Raises UserError when it is absent, of another format version, or a column is missing.
    """
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    version = metadata.get("ttt.format_version")
    if version is None:
        raise UserError(f"{uri}: no ttt.format_version in its schema; it is not of a code cache")
    if version != str(FORMAT_VERSION):
        raise UserError(
            f"{uri}: format version {version}, this program reads {FORMAT_VERSION}; cache again"
        )
    geometry = CodeGeometry.from_json(metadata["ttt.geometry"])
    return ShardHeader(geometry, CodecIdentity(**json.loads(metadata["ttt.codec"])))


def checked_header(schema: pa.Schema, uri: str | Path) -> ShardHeader:
    """The header of a shard that has all columns it needs. Raises UserError otherwise."""
    header = shard_header(schema, uri)
    check_columns(schema, header, uri)
    return header


def check_columns(schema: pa.Schema, header: ShardHeader, uri: str | Path) -> None:
    """Raises UserError that names a shard's missing or differently typed columns."""
    wanted = shard_schema(header, facts_in(schema))
    refuse_wrong_columns(schema, {field.name: field.type for field in wanted}, uri)


def facts_in(schema: pa.Schema) -> list[str]:
    """Which of FACT_COLUMNS a shard or an index has."""
    return [name for name in FACT_COLUMNS if name in schema.names]


def code_columns(geometry: CodeGeometry) -> tuple[str, ...]:
    """Names of the code columns, coarsest scale first."""
    return tuple(f"codes_{scale}" for scale in range(len(geometry.strides)))


def interleaved_codes(table: pa.Table, geometry: CodeGeometry) -> np.ndarray:
    """The codes of all rows of a shard's table: int16 [sum of n_coarse, codes_per_coarse].

    Raises ValueError when the scales do not cover the same time in some row.
    """
    n_coarse = table["n_coarse"].to_numpy()
    scales = []
    for name, count in zip(code_columns(geometry), geometry.tokens_per_coarse, strict=True):
        column = table[name].combine_chunks()
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(lengths != n_coarse * count)[:1]:
            raise ValueError(
                f"clip {table['clip_id'][int(row)]}: {name} holds {lengths[row]} codes, "
                f"n_coarse {n_coarse[row]} needs {n_coarse[row] * count}"
            )
        scales.append(column.flatten().to_numpy().reshape(-1, count))
    return np.concatenate(scales, axis=1)


def clip_crc32(codes: np.ndarray, audio: bytes | memoryview) -> int:
    """The checksum stored with a clip: of its interleaved codes, then of its padded audio."""
    return zlib.crc32(audio, zlib.crc32(np.ascontiguousarray(codes, "<i2").data))


def in_range(codes: np.ndarray, geometry: CodeGeometry) -> bool:
    """Whether all codes (at least one) are in the codebook."""
    return bool(codes.min() >= 0 and codes.max() < geometry.codebook_size)


def _row_groups(clips: Sequence[Clip], geometry: CodeGeometry) -> Iterator[list[Clip]]:
    """Consecutive clips, at most ROW_GROUP_CLIPS and ROW_GROUP_BYTES of audio together."""
    group: list[Clip] = []
    group_bytes = 0
    for clip in clips:
        clip_bytes = _padded_samples(clip, geometry) * SAMPLE_BYTES
        if group and (len(group) == ROW_GROUP_CLIPS or group_bytes + clip_bytes > ROW_GROUP_BYTES):
            yield group
            group, group_bytes = [], 0
        group.append(clip)
        group_bytes += clip_bytes
    if group:
        yield group


def _row(clip: Clip, geometry: CodeGeometry) -> dict[str, Any]:
    _check_clip(clip, geometry)
    audio = np.zeros(_padded_samples(clip, geometry), "<i2")
    audio[: clip.n_samples] = clip.audio
    codes = [np.asarray(scale, np.int16) for scale in clip.codes]
    together = np.concatenate(
        [
            scale.reshape(-1, count)
            for scale, count in zip(codes, geometry.tokens_per_coarse, strict=True)
        ],
        axis=1,
    )
    return {
        "clip_id": clip.clip_id,
        "n_coarse": len(together),
        "n_samples": clip.n_samples,
        **dict(zip(code_columns(geometry), codes, strict=True)),
        "audio": audio.tobytes(),
        "gain_db": clip.gain_db,
        "lag_samples": clip.lag_samples,
        "crc32": clip_crc32(together, audio.data),
        **{name: getattr(clip, name) for name in FACT_COLUMNS},
    }


def _check_clip(clip: Clip, geometry: CodeGeometry) -> None:
    samples_48k = _padded_samples(clip, geometry)
    problem = None
    if clip.audio.dtype != np.int16 or clip.audio.shape != (clip.n_samples,):
        problem = f"audio is {clip.audio.dtype} {clip.audio.shape}, not int16 ({clip.n_samples},)"
    elif not 0 < clip.n_samples <= samples_48k:
        problem = f"{clip.n_samples} samples, but its codes last 1 to {samples_48k}"
    elif samples_48k * SAMPLE_BYTES > MAX_CLIP_BYTES:
        problem = "more than 2 GiB of audio; cut it"
    elif not all(in_range(codes, geometry) for codes in clip.codes):
        problem = f"a code is outside 0 to {geometry.codebook_size - 1}"
    if problem:
        raise UserError(f"clip {clip.clip_id}: {problem}")


def _padded_samples(clip: Clip, geometry: CodeGeometry) -> int:
    try:
        return geometry.samples_48k(geometry.n_coarse_of([len(codes) for codes in clip.codes]))
    except ValueError as error:
        raise UserError(f"clip {clip.clip_id}: {error}") from error
