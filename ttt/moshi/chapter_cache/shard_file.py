"""One shard: the parquet file that holds the codes of some dozens of whole chapters.

Shards are uncompressed and PLAIN, one page per row group, so that the codes of a chapter are
contiguous in the file and frames [a, b) of them are one read (`ttt.files.ranged`). Parquet stores
list<int16> as int32 with lengths between, so codes and text are binary values instead.

Columns, none nullable: chapter_id, speaker, book string, n_frames int32, codes binary (int16
little-endian, frame by frame, 8 a frame), joins list<int32> (frames in which a later piece begins),
seconds float64, codes_sha256 string; and where the chapters' text was made, text binary (int32
little-endian, one a frame) and text_sha256 string. The schema metadata name the format version,
Mimi and how it computed, and the base model whose text it is.

Shapes: T frames of a chapter, Q codebooks (8).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from ttt.errors import UserError
from ttt.files.parquets import plain_parquet, refuse_wrong_columns
from ttt.synthetic.chapters import CODEBOOKS, SYNTHETIC, SyntheticChapterConfig

FORMAT_VERSION = 1
ROW_GROUP_CHAPTERS = 64
CODE_TYPE, TEXT_TYPE = np.dtype("<i2"), np.dtype("<i4")


@dataclass(frozen=True, kw_only=True)
class CodesIdentity:
    """Which Mimi made the codes, and how it computed; or the language of synthetic ones."""

    name: str
    weights_sha256: str
    device: str
    """Kind of device, cpu or cuda: another one rounds otherwise, and moves some codes."""
    precision: str
    card: int
    """Codes lie from 0 to below it."""
    codebooks: int = 8

    @classmethod
    def of_language(cls, language: SyntheticChapterConfig) -> Self:
        """Of synthetic chapters in this language, with structure and without."""
        return cls(
            name=SYNTHETIC,
            weights_sha256=language.codes_sha256,
            device="cpu",
            precision="integer",
            card=language.card,
            codebooks=CODEBOOKS,
        )

    @property
    def is_synthetic(self) -> bool:
        """Whether no Mimi made the codes: `weights_sha256` is then of their language."""
        return self.name == SYNTHETIC


@dataclass(frozen=True, kw_only=True)
class TextIdentity:
    """Whose own text the chapters have, and what the model heard beside them."""

    name: str
    fingerprint: str
    """Of `ttt.moshi.ttt_files.base_fingerprint`."""
    weights_sha256: str | None
    """Of the weights' file; None for a model without one."""
    dtype: str
    device: str
    context: int
    """Frames that attention reaches back."""
    other: str
    voice: str
    chunk: int
    """Steps of a pass: in bfloat16 part of what the text is."""
    card: int
    """Tokens lie from 0 to below it."""


@dataclass(frozen=True)
class ShardHeader:
    """What the schema metadata of a shard say of all its chapters."""

    codes: CodesIdentity
    text: TextIdentity | None = None


@dataclass(frozen=True, eq=False)
class CodedChapter:
    """One chapter, ready to be stored."""

    chapter_id: str
    speaker: str
    book: str
    codes: np.ndarray
    """int16 [T, Q]."""
    seconds: float
    """How long its audio lasts."""
    joins: tuple[int, ...] = ()
    """Frames in which a later piece begins."""
    text: np.ndarray | None = None
    """int32 [T], where the header says whose it is."""


def write_shard(uri: str | Path, chapters: Sequence[CodedChapter], header: ShardHeader) -> None:
    """Write one shard, whole or not at all; the same chapters give the same bytes.

    Raises UserError, naming it, for a chapter that does not fit the header.
    """
    schema = shard_schema(header)
    rows = [_row(chapter, header) for chapter in chapters]
    with plain_parquet(uri, schema) as writer:
        for at in range(0, len(rows), ROW_GROUP_CHAPTERS):
            group = rows[at : at + ROW_GROUP_CHAPTERS]
            writer.write_table(pa.Table.from_pylist(group, schema), row_group_size=len(group))


def shard_schema(header: ShardHeader) -> pa.Schema:
    """The columns of a shard, with the header in the metadata."""
    metadata = {_VERSION: str(FORMAT_VERSION), "ttt.codes": json.dumps(asdict(header.codes))}
    if header.text is not None:
        metadata["ttt.text"] = json.dumps(asdict(header.text))
    kinds = _COLUMNS if header.text is None else _COLUMNS | _TEXT_COLUMNS
    return pa.schema([pa.field(name, kind, False) for name, kind in kinds.items()], metadata)


def shard_header(schema: pa.Schema, uri: str | Path) -> ShardHeader:
    """The header in a shard's or an index's schema.

    Raises UserError when it is absent, damaged, or of another format version.
    """
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    version = metadata.get(_VERSION)
    if version is None:
        raise UserError(f"{uri}: no {_VERSION} in its schema; it is not of a cache of chapters")
    if version != str(FORMAT_VERSION):
        raise UserError(
            f"{uri}: format version {version}, this program reads {FORMAT_VERSION}; cache again"
        )
    text = metadata.get("ttt.text")
    try:
        return ShardHeader(
            CodesIdentity(**json.loads(metadata["ttt.codes"])),
            None if text is None else TextIdentity(**json.loads(text)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{uri}: its schema does not say whose codes and text it holds ({error}); cache again"
        ) from error


def checked_header(schema: pa.Schema, uri: str | Path) -> ShardHeader:
    """The header of a shard that has all columns it needs. Raises UserError otherwise."""
    header = shard_header(schema, uri)
    check_columns(schema, header, uri)
    return header


def check_columns(schema: pa.Schema, header: ShardHeader, uri: str | Path) -> None:
    """Raises UserError that names a shard's missing or differently typed columns."""
    wanted = shard_schema(header)
    refuse_wrong_columns(schema, {field.name: field.type for field in wanted}, uri)


def bytes_of(frames: np.ndarray, header: ShardHeader, column: str) -> np.ndarray:
    """Bytes of a chapter's codes or text by its frames; int64."""
    each = header.codes.codebooks * CODE_TYPE.itemsize if column == "codes" else TEXT_TYPE.itemsize
    return frames.astype(np.int64) * each


def sha256_of(value: bytes | pa.Buffer) -> str:
    """The digest stored with a chapter's codes or text."""
    return hashlib.sha256(value).hexdigest()


def outside(values: np.ndarray, card: int) -> str | None:
    """What is wrong with codes or tokens that must lie from 0 to below `card`; None if nothing."""
    if values.size and (values.min() < 0 or values.max() >= card):
        return f"holds {values.min()} to {values.max()}, and 0 to {card - 1} are possible"
    return None


_VERSION = "ttt.chapters_version"
_COLUMNS: dict[str, pa.DataType] = {
    "chapter_id": pa.string(),
    "speaker": pa.string(),
    "book": pa.string(),
    "n_frames": pa.int32(),
    "codes": pa.binary(),
    "joins": pa.list_(pa.field("element", pa.int32(), False)),
    "seconds": pa.float64(),
    "codes_sha256": pa.string(),
}
_TEXT_COLUMNS: dict[str, pa.DataType] = {"text": pa.binary(), "text_sha256": pa.string()}


def _row(chapter: CodedChapter, header: ShardHeader) -> dict[str, Any]:
    frames, codebooks = len(chapter.codes), header.codes.codebooks
    problem = None
    if chapter.codes.dtype != np.int16 or chapter.codes.shape != (frames, codebooks) or not frames:
        problem = f"codes are {chapter.codes.dtype} {chapter.codes.shape}, not int16 [T, 8]"
    elif (chapter.text is None) != (header.text is None):
        problem = "its text is missing, or nobody's"
    elif chapter.text is not None and (
        chapter.text.dtype != np.int32 or chapter.text.shape != (frames,)
    ):
        problem = f"text is {chapter.text.dtype} {chapter.text.shape}, not int32 ({frames},)"
    else:
        problem = outside(chapter.codes, header.codes.card)
        if header.text is not None and chapter.text is not None:
            problem = problem or outside(chapter.text, header.text.card)
    if problem:
        raise UserError(f"chapter {chapter.chapter_id}: {problem}")
    codes = np.ascontiguousarray(chapter.codes, CODE_TYPE).tobytes()
    row: dict[str, Any] = {
        "chapter_id": chapter.chapter_id,
        "speaker": chapter.speaker,
        "book": chapter.book,
        "n_frames": frames,
        "codes": codes,
        "joins": list(chapter.joins),
        "seconds": chapter.seconds,
        "codes_sha256": sha256_of(codes),
    }
    if chapter.text is not None:
        text = np.ascontiguousarray(chapter.text, TEXT_TYPE).tobytes()
        row |= {"text": text, "text_sha256": sha256_of(text)}
    return row
