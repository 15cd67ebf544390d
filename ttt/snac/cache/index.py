"""Read windows of a cache of codes: which clips there are, any span of their codes and audio.

A window is one exact read of the shard and a look into codes.bin, both placed by the cache's index
(ttt.snac.cache.shards.build_index).

The cache is read-only and may be used by several threads.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from ttt import retries, storage
from ttt.errors import UserError
from ttt.files.indexes import read_index, refuse_stale
from ttt.files.parquets import refuse_wrong_columns
from ttt.files.ranged import (
    PREFIX_BYTES,
    OpenFiles,
    RangedFile,
    length_prefix,
    open_ranged,
)
from ttt.snac.cache.catalogue import Catalogue
from ttt.snac.cache.shard_file import (
    FACT_COLUMNS,
    SAMPLE_BYTES,
    CodecIdentity,
    facts_in,
    in_range,
    read_shard_table,
    shard_header,
)
from ttt.snac.cache.shards import codes_uri, index_uri, shard_names, shards_folder
from ttt.snac.geometry import CodeGeometry
from ttt.snac.load import LoadedCodec

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class DamagedClip(Exception):
    """A clip cannot be read; the text is the reason, with the file."""


def open_cache(uri: str | Path) -> CodeCache:
    """Open the cache folder at a path or at any URI that pyarrow or fsspec reads.

    Raises UserError when there is no shard, or the index is missing, damaged, stale or of another
    format. Shards that do not match the index are logged, and reading their clips raises
    DamagedClip.
    """
    if not storage.exists(index_uri(uri)):
        shard_names(uri)  # Says so where there is no cache at all.
        raise UserError(
            f"{uri}: has no index.arrow; build it with ray_jobs.cache_codes, which encodes only "
            "what is missing"
        )
    return CodeCache(str(uri), _load_index(uri))


def open_cache_of(uri: str, codec: LoadedCodec) -> CodeCache:
    """The cache of a codec's codes. Raises UserError where another codec wrote them."""
    cache = open_cache(uri)
    if cache.geometry != codec.geometry:
        raise UserError(
            f"{uri}: its codes have the geometry {cache.geometry.to_json()} and codec "
            f"{codec.name} has {codec.geometry.to_json()}; name the codec that wrote the cache"
        )
    if cache.codec.weights_sha256 != codec.weights_sha256:
        raise UserError(
            f"{uri}: its codes were written by {cache.codec.name} with weights "
            f"{cache.codec.weights_sha256[:12]} and codec {codec.name} has "
            f"{codec.weights_sha256[:12]}; name the codec that wrote the cache"
        )
    return cache


class CodeCache:
    """An open cache; make it with `open_cache`."""

    def __init__(self, uri: str, table: pa.Table) -> None:
        header = shard_header(table.schema, index_uri(uri))
        self.uri = uri
        self.geometry: CodeGeometry = header.geometry
        self.codec: CodecIdentity = header.codec
        self.catalogue = Catalogue.of(table)
        self._shard = _column(table, "shard")
        self._shard_row = _column(table, "row")
        self._audio_offset = _column(table, "audio_offset")
        self._codes_offset = _column(table, "codes_offset")
        self._shards: list[tuple[str, int]] = json.loads(table.schema.metadata[b"ttt.shards"])
        self._broken_shards = self._compare_shards()
        self._files = OpenFiles(self._shard_uri)
        self._checksums: dict[int, np.ndarray] = {}
        self._prefix_checked = np.zeros(len(self), bool)
        self._codes = self._open_codes()
        self._pool = None if storage.is_local(uri) else ThreadPoolExecutor(_REMOTE_READS)
        if len(self) and self._audio_offset.min() < 0:
            raise UserError(
                f"{uri}: another program has compressed its shards, so no window can be read out "
                "of them; cache again with ray_jobs.cache_codes"
            )

    def __len__(self) -> int:
        return len(self.catalogue.n_coarse)

    def read_codes(self, row: int, start: int, count: int) -> np.ndarray:
        """Codes of `count` coarsest tokens from `start`: int16 [count, codes_per_coarse].

        Raises DamagedClip, ValueError when the span is not inside the clip.
        """
        self._check_span(row, start, count, int(self.catalogue.n_coarse[row]))
        first = int(self._codes_offset[row]) + start
        if isinstance(self._codes, np.ndarray):
            codes = np.array(self._codes[first : first + count])
        else:
            codes = np.empty((count, self.geometry.codes_per_coarse), np.int16)
            self._read_into(self._codes, "codes.bin", first * codes[0].nbytes, codes)
        if not in_range(codes, self.geometry):
            outside = f"a code is outside 0 to {self.geometry.codebook_size - 1}"
            raise DamagedClip(f"codes.bin: {outside}")
        return codes

    def read_audio(self, row: int, start_sample: int, count: int) -> np.ndarray:
        """`count` 48 kHz samples from `start_sample`, zeros after the real ones: int16 [count].

        Raises DamagedClip, ValueError when the span is not inside the clip's codes.
        """
        out = np.empty(count, np.int16)
        self.read_audio_into(row, start_sample, out)
        return out

    def read_audio_into(self, row: int, start_sample: int, out: np.ndarray) -> None:
        """As `read_audio`, into a contiguous int16 array."""
        samples_48k = self.geometry.samples_48k(int(self.catalogue.n_coarse[row]))
        self._check_span(row, start_sample, len(out), samples_48k)
        shard = int(self._shard[row])
        if self._broken_shards and shard in self._broken_shards:
            raise DamagedClip(self._broken_shards[shard])
        offset = int(self._audio_offset[row])
        name = self._shards[shard][0]
        try:
            file = self._files.get(shard)
        except OSError as error:
            raise DamagedClip(f"{name}: {error}") from error
        if not self._prefix_checked[row]:
            prefix = np.empty(PREFIX_BYTES, np.uint8)
            self._read_into(file, name, offset - PREFIX_BYTES, prefix)
            if prefix.tobytes() != length_prefix(samples_48k * SAMPLE_BYTES):
                raise DamagedClip(f"{name}: the index was made of another file")
            self._prefix_checked[row] = True
        self._read_into(file, name, offset + start_sample * SAMPLE_BYTES, out)

    def checksum(self, row: int) -> str:
        """The crc32 of a clip's codes and audio, as its shard holds it. Raises DamagedClip."""
        shard = int(self._shard[row])
        if shard not in self._checksums:
            try:
                table = read_shard_table(self._shard_uri(shard), ["crc32"])
            except retries.StorageUnavailable:
                raise
            except UserError as error:
                raise DamagedClip(str(error)) from error
            self._checksums[shard] = table["crc32"].to_numpy()
        return f"{int(self._checksums[shard][self._shard_row[row]]):08x}"

    def gather_codes(
        self, rows: np.ndarray, starts: np.ndarray, count: int
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Codes of `count` coarsest tokens of many clips; zeros past a clip's end.

        Returns int16 [rows, count, codes_per_coarse] and the reason for every position in `rows`
        that cannot be read.
        """
        lengths = np.minimum(self.catalogue.n_coarse[rows] - starts, count)
        if isinstance(self._codes, np.ndarray):
            inside = np.arange(count) < lengths[:, None]
            first = self._codes_offset[rows] + starts
            index = first[:, None] + np.minimum(np.arange(count), lengths[:, None] - 1)
            codes = self._codes[index]
            if not inside.all():
                codes[~inside] = 0
            if in_range(codes, self.geometry):
                return codes, {}
        codes = np.zeros((len(rows), count, self.geometry.codes_per_coarse), np.int16)

        def read(position: int) -> str | None:
            length = int(lengths[position])
            try:
                codes[position, :length] = self.read_codes(
                    int(rows[position]), int(starts[position]), length
                )
            except DamagedClip as damage:
                return str(damage)
            return None

        reasons = self.concurrently(read, range(len(rows)))
        return codes, {at: reason for at, reason in enumerate(reasons) if reason}

    def concurrently(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> list[Result]:
        """`function` of every item: in turn for local files, many at once over a network."""
        if self._pool is None:
            return [function(item) for item in items]
        return list(self._pool.map(function, items))

    # -- files -------------------------------------------------------------------------------------

    def _shard_uri(self, shard: int) -> str:
        return storage.join(shards_folder(self.uri), self._shards[shard][0])

    def _read_into(self, file: RangedFile, name: str, offset: int, out: np.ndarray) -> None:
        try:
            read = file.read_into(offset, out)
        except OSError as error:
            raise DamagedClip(f"{name}: {error}") from error
        if read != out.nbytes:
            raise DamagedClip(f"{name}: ends inside the clip")

    def _check_span(self, row: int, start: int, count: int, length: int) -> None:
        if start < 0 or count < 1 or start + count > length:
            raise ValueError(
                f"clip {self.catalogue.clip_ids[row]}: span {start} to {start + count} "
                f"is not inside 0 to {length}"
            )

    def _compare_shards(self) -> dict[int, str]:
        """Why shards do not match the index; one listing of the folder tells."""
        sizes = storage.file_sizes(shards_folder(self.uri))
        broken = {}
        for number, (name, size) in enumerate(self._shards):
            if name not in sizes:
                broken[number] = f"{name}: missing"
            elif sizes[name] != size:
                broken[number] = f"{name}: {sizes[name]} bytes, but the index was made of {size}"
        for reason in broken.values():
            logger.warning("%s: %s; its clips are damaged", self.uri, reason)
        return broken

    def _open_codes(self) -> np.ndarray | RangedFile:
        uri = codes_uri(self.uri)
        shape = (int(self._n_coarse_total()), self.geometry.codes_per_coarse)
        wanted = shape[0] * shape[1] * np.dtype(np.int16).itemsize
        if storage.file_bytes(uri) != wanted:
            raise UserError(f"{uri}: not the {wanted} bytes the index needs; build the index again")
        if storage.is_local(uri):
            return np.memmap(storage.local_path(uri), "<i2", mode="r", shape=shape)
        return open_ranged(uri)

    def _n_coarse_total(self) -> int:
        return int(self._codes_offset[-1] + self.catalogue.n_coarse[-1]) if len(self) else 0


_REMOTE_READS = 32
"""Requests in flight over a network; each waits tens of milliseconds for its first byte."""

_INDEX_COLUMNS = {
    "clip_id": pa.string(),
    "shard": pa.int32(),
    "row": pa.int32(),
    "audio_offset": pa.int64(),
    "n_coarse": pa.int32(),
    "n_samples": pa.int32(),
    "codes_offset": pa.int64(),
}


def _load_index(cache_uri: str | Path) -> pa.Table:
    """The index, mapped into memory when it is local: nothing is copied."""
    mend = "build the index again"
    table = read_index(cache_uri, mend)
    wanted = {**_INDEX_COLUMNS, **{name: FACT_COLUMNS[name] for name in facts_in(table.schema)}}
    refuse_wrong_columns(table.schema, wanted, index_uri(cache_uri))
    refuse_stale(cache_uri, table, shard_names(cache_uri), mend)
    return table


def _column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy()
