"""Whether a cache is sound: everything in it is read, and what is broken is said.

The codes of copies at other levels are checked as all others are; their audio must be their
clip's at the gain that they name.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ttt import storage
from ttt.files.errors import reading_column_types
from ttt.files.ranged import open_seekable
from ttt.files.verify import broken_shards
from ttt.snac.cache.gain_copies import factor, stored_gain_db
from ttt.snac.cache.shard_file import (
    SAMPLE_BYTES,
    ShardHeader,
    checked_header,
    clip_crc32,
    facts_in,
    in_range,
    interleaved_codes,
)
from ttt.snac.cache.shards import JOB, codes_uri, index_uri, read_catalogue


def verify_cache(cache_uri: str | Path) -> list[str]:
    """Read a whole cache and say in one sentence each what is broken; empty when nothing is.

    Checks every shard's readability, columns, geometry, lengths, code range and checksums, clip
    ids that occur twice, copies against their clips; when the shards are sound, the index and
    codes.bin against them.
    """
    shard_of: dict[str, str] = {}

    def broken(shard: pq.ParquetFile, header: ShardHeader, name: str) -> Iterator[str]:
        copies = _Copies()
        for group in range(shard.num_row_groups):
            table = shard.read_row_group(group)
            yield from [*_broken_clips(table, header, name, shard_of), *copies.broken(table)]

    problems = broken_shards(cache_uri, JOB, checked_header, "geometry or codec", broken)
    return problems or _broken_index(cache_uri)


def _broken_clips(
    table: pa.Table, header: ShardHeader, shard: str, shard_of: dict[str, str]
) -> Iterator[str]:
    """What is broken in a row group; notes each clip id in `shard_of`."""
    geometry = header.geometry
    try:
        codes = interleaved_codes(table, geometry)
    except ValueError as error:
        yield str(error)
        return
    end = 0
    for row in range(len(table)):
        clip_id, n_coarse, n_samples, audio, crc32 = (
            table[name][row] for name in ("clip_id", "n_coarse", "n_samples", "audio", "crc32")
        )
        clip_id, n_coarse, n_samples = clip_id.as_py(), n_coarse.as_py(), n_samples.as_py()
        clip_codes = codes[end : end + n_coarse]
        end += n_coarse
        samples_48k = geometry.samples_48k(n_coarse)
        audio = audio.as_buffer()
        if clip_codes.size and not in_range(clip_codes, geometry):
            yield f"clip {clip_id}: a code is outside 0 to {geometry.codebook_size - 1}"
        if audio.size != samples_48k * SAMPLE_BYTES or not 0 < n_samples <= samples_48k:
            yield (
                f"clip {clip_id}: {audio.size} bytes of audio and n_samples {n_samples}, "
                f"but its {n_coarse} coarsest codes last {samples_48k} samples"
            )
        if clip_crc32(clip_codes, memoryview(audio)) != crc32.as_py():
            yield f"clip {clip_id}: checksum differs, its codes or audio were changed"
        if clip_id in shard_of:
            yield f"clip {clip_id}: the same id is in {shard_of[clip_id]}"
        shard_of[clip_id] = shard


class _Copies:
    """Compares the copies of a shard with their clips; a clip may lie in the row group before."""

    def __init__(self) -> None:
        self._clip_id: str | None = None
        self._audio: pa.Buffer | None = None

    def broken(self, table: pa.Table) -> Iterator[str]:
        """What is broken in the next row group."""
        known = facts_in(table.schema)
        for row in range(len(table)):
            clip_id, audio = table["clip_id"][row].as_py(), table["audio"][row].as_buffer()
            copy_of, gain_db = (
                table[name][row].as_py() if name in known else None
                for name in ("copy_of", "copy_gain_db")
            )
            if copy_of is None:
                self._clip_id, self._audio = clip_id, audio
            elif copy_of != self._clip_id or self._audio is None:
                yield f"clip {clip_id}: does not stand behind {copy_of}, which it is a copy of"
            elif gain_db is None or not _is_at_gain(audio, self._audio, stored_gain_db(gain_db)):
                level = "an unknown gain" if gain_db is None else f"{gain_db:+.2f} dB"
                yield f"clip {clip_id}: its audio is not that of {copy_of} at {level}"


_ROUNDING = 0.51
"""Half a step of 16 bits, and what float32 adds to it."""


def _is_at_gain(copy: pa.Buffer, clip: pa.Buffer, gain_db: float) -> bool:
    """Whether int16 audio is another's at a gain, rounded."""
    if copy.size != clip.size or copy.size % SAMPLE_BYTES:
        return False
    wanted = np.frombuffer(clip, "<i2") * factor(gain_db)
    return bool(np.abs(np.frombuffer(copy, "<i2") - wanted).max(initial=0) <= _ROUNDING)


def _broken_index(cache_uri: str | Path) -> list[str]:
    """What of the index and codes.bin differs from what the (sound) shards give."""
    index, codes = index_uri(cache_uri), codes_uri(cache_uri)
    missing = [uri for uri in (index, codes) if not storage.exists(uri)]
    if missing:
        return [f"{uri}: missing; build the index" for uri in missing]
    problems = []
    with open_seekable(codes) as stream:
        comparison = _Comparison(stream)
        catalogue = read_catalogue(cache_uri, comparison)
        if not comparison.equal or stream.read(1):
            problems.append(f"{codes}: differs from the codes in the shards; build the index")
    try:
        content = pa.py_buffer(storage.read_bytes(index))
        with reading_column_types(), pa.ipc.open_file(content) as reader:
            same = reader.read_all().equals(catalogue, check_metadata=True)
    except pa.ArrowException:
        same = False
    if not same:
        problems.append(f"{index}: differs from what the shards hold; build the index")
    return problems


class _Comparison:
    """A sink that compares what is written with what a stream holds."""

    def __init__(self, stream: io.RawIOBase | pa.NativeFile) -> None:
        self.equal = True
        self._stream = stream

    def write(self, content: bytes) -> None:
        self.equal = self._stream.read(len(content)) == content and self.equal
