"""Read a cache of chapters: which there are, and any frames of their codes and text, by one read.

    cache = ChapterCache.open("cache")
    codes = cache.read(row, 1000, 1375)          # int16 [375, 8]

The cache is read-only and may be used by several threads and processes.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from ttt import storage
from ttt.errors import UserError
from ttt.files.ranged import PREFIX_BYTES, OpenFiles, length_prefix, read_at
from ttt.files.shards import index_uri, shards_folder
from ttt.moshi.chapter_cache.index import load_index
from ttt.moshi.chapter_cache.shard_file import (
    CODE_TYPE,
    TEXT_TYPE,
    CodesIdentity,
    TextIdentity,
    bytes_of,
    outside,
    shard_header,
)
from ttt.synthetic.chapters import SyntheticChapterConfig


@dataclass(frozen=True)
class CachedChapter:
    """A chapter of a cache, without its codes."""

    chapter_id: str
    speaker: str
    book: str
    n_frames: int
    seconds: float
    joins: tuple[int, ...]
    codes_sha256: str
    """Of the codes as they are stored."""


class ChapterCache:
    """An open cache; make it with `ChapterCache.open`."""

    def __init__(self, uri: str, table: pa.Table) -> None:
        self.uri = uri
        self._header = shard_header(table.schema, index_uri(uri))
        self._table = table
        self._shards: list[tuple[str, int]] = json.loads(table.schema.metadata[b"ttt.shards"])
        self._shard = table["shard"].to_numpy()
        self._offsets = {
            name: table[f"{name}_offset"].to_numpy()
            for name in ("codes", "text")
            if f"{name}_offset" in table.schema.names
        }
        self._files = OpenFiles(lambda shard: self._shard_uri(self._shards[shard][0]))
        self._prefix_checked = {name: np.zeros(len(table), bool) for name in self._offsets}
        self._refuse_other_shards()

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open the cache at a path or at any URI that pyarrow or fsspec reads.

        Raises UserError when there is none, it is not finished, or its index is damaged, of
        another format, or of other shards.
        """
        return cls(str(folder), load_index(folder))

    def __len__(self) -> int:
        return len(self._shard)

    @property
    def codes(self) -> CodesIdentity:
        """Which Mimi made the codes, or which language they are of."""
        return self._header.codes

    @property
    def text(self) -> TextIdentity | None:
        """Whose text the chapters have; None where none was made."""
        return self._header.text

    @functools.cached_property
    def chapters(self) -> list[CachedChapter]:
        """All chapters, in the order of the shards: row i is chapter i."""
        names = ("chapter_id", "speaker", "book", "n_frames", "seconds", "joins", "codes_sha256")
        columns = [self._table[name].to_pylist() for name in names]
        return [
            CachedChapter(name, speaker, book, frames, seconds, tuple(joins), sha256)
            for name, speaker, book, frames, seconds, joins, sha256 in zip(*columns, strict=True)
        ]

    @functools.cached_property
    def n_frames(self) -> np.ndarray:
        """Frames of each chapter; int64 [chapters]."""
        return self._table["n_frames"].to_numpy().astype(np.int64)

    def read(self, row: int, start: int, stop: int) -> np.ndarray:
        """Codes of frames [start, stop) of a chapter: int16 [stop - start, codebooks].

        Raises UserError when the shard is damaged, ValueError when the frames are not the
        chapter's.
        """
        found = self._values("codes", row, start, stop, CODE_TYPE)
        return found.reshape(-1, self.codes.codebooks).astype(np.int16, copy=False)

    def read_text(self, row: int, start: int, stop: int) -> np.ndarray:
        """The text of frames [start, stop) of a chapter: int32 [stop - start].

        Raises what `read` raises, and UserError where the cache has no text.
        """
        if self.text is None:
            raise UserError(f"{self.uri}: has no text; cache again with text set")
        return self._values("text", row, start, stop, TEXT_TYPE).astype(np.int32, copy=False)

    def require_mimi(self, name: str, weights_sha256: str) -> None:
        """Raise UserError where another Mimi than this one made the codes."""
        mine = self.codes
        if mine.is_synthetic:
            raise UserError(
                f"{self.uri}: its codes are synthetic, no Mimi made them, and those of Mimi {name} "
                "are needed; cache recordings by that Mimi"
            )
        if mine.weights_sha256 != weights_sha256:
            raise UserError(
                f"{self.uri}: its codes were made by Mimi {mine.name} with weights "
                f"{mine.weights_sha256[:12]}, and Mimi {name} has {weights_sha256[:12]}; name the "
                "Mimi that made the cache, or cache again"
            )

    def require_synthetic(self, language: SyntheticChapterConfig | None = None) -> None:
        """Raise UserError where a Mimi made the codes, or where they are of another language."""
        mine = self.codes
        if not mine.is_synthetic:
            raise UserError(
                f"{self.uri}: its codes were made by Mimi {mine.name}, and synthetic ones are "
                "needed; name that Mimi, or cache with synthetic in place of data"
            )
        if language is not None and mine.weights_sha256 != language.codes_sha256:
            raise UserError(
                f"{self.uri}: its synthetic codes are of the language {mine.weights_sha256[:12]}, "
                f"and {language.codes_sha256[:12]} (cues {language.cues}, cues_per_block "
                f"{language.cues_per_block}, card {language.card}) is needed; cache again with "
                "that language"
            )

    def require_text(self, name: str, fingerprint: str) -> None:
        """Raise UserError where the text is not the own text of this base model."""
        mine = self.text
        if mine is None or mine.fingerprint != fingerprint:
            whose = (
                "it has none" if mine is None else f"it is that of {mine.name} ({mine.fingerprint})"
            )
            raise UserError(
                f"{self.uri}: the own text of {name} ({fingerprint}) is needed, and {whose}; cache "
                "again with text.weights set to that model, or take another text"
            )

    def _values(self, column: str, row: int, start: int, stop: int, kind: np.dtype) -> np.ndarray:
        frames = int(self.n_frames[row])
        if not 0 <= start <= stop <= frames:
            raise ValueError(
                f"chapter {self.chapters[row].chapter_id}: frames {start} to {stop} are not inside "
                f"0 to {frames}"
            )
        name = self._shards[int(self._shard[row])][0]
        offset = int(self._offsets[column][row])
        begin, end, whole = bytes_of(np.array([start, stop, frames]), self._header, column).tolist()
        try:
            file = self._files.get(int(self._shard[row]))
            if not self._prefix_checked[column][row]:
                prefix = read_at(file, offset - PREFIX_BYTES, PREFIX_BYTES)
                if prefix != length_prefix(whole):
                    raise UserError(f"{self._shard_uri(name)}: the index was made of another file")
                self._prefix_checked[column][row] = True
            values = np.empty((end - begin) // kind.itemsize, kind)
            read = file.read_into(offset + begin, values) if len(values) else 0
        except OSError as error:
            raise UserError(f"{self._shard_uri(name)}: {error}") from error
        if read != values.nbytes:
            raise UserError(f"{self._shard_uri(name)}: ends inside a chapter; check it by --verify")
        text = self._header.text
        card = self.codes.card if column == "codes" or text is None else text.card
        if problem := outside(values, card):
            chapter = self.chapters[row].chapter_id
            raise UserError(
                f"{self._shard_uri(name)}: chapter {chapter}: its {column} {problem}; the shard is "
                "damaged, check it by --verify"
            )
        return values

    def _shard_uri(self, name: str) -> str:
        return storage.join(shards_folder(self.uri), name)

    def _refuse_other_shards(self) -> None:
        """One listing of the folder tells whether the index is of these shards."""
        sizes = storage.file_sizes(shards_folder(self.uri))
        for name, size in self._shards:
            if sizes.get(name) != size:
                now = f"has {sizes[name]:,} bytes" if name in sizes else "is missing"
                raise UserError(
                    f"{self._shard_uri(name)}: {now}, and the index was made of {size:,}; delete "
                    "the shard's .jsonl to have it cached again"
                )
