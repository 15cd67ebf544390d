"""Caches of chapters: any frames by one read, the same bytes, every damage in one sentence."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.chapter_caches import MIMI, TEXT, chapter, write_cache
from tests.code_caches import write_impulse_cache
from ttt import storage
from ttt.errors import UserError
from ttt.files.shards import index_uri, shard_uri
from ttt.moshi.chapter_cache.index import build_index
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.moshi.chapter_cache.shard_file import ShardHeader, write_shard

LENGTHS = [1, 7, 300, 2, 41, 65, 1000]


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("per_shard", [1, 3, 100])
def test_any_frames_are_those_that_were_written(tmp_path: Path, text: bool, per_shard: int) -> None:
    written = write_cache(tmp_path, LENGTHS, per_shard=per_shard, text=text)
    cache = ChapterCache.open(tmp_path)
    assert (len(cache), cache.codes, cache.text) == (7, MIMI, TEXT if text else None)
    assert cache.n_frames.tolist() == LENGTHS
    for row, (there, was) in enumerate(zip(cache.chapters, written, strict=True)):
        for name in ("chapter_id", "speaker", "book", "seconds", "joins"):
            assert getattr(there, name) == getattr(was, name)
        frames = there.n_frames
        for start, stop in {(0, frames), (0, 1), (frames - 1, frames), (frames // 3, frames // 2)}:
            codes = cache.read(row, start, stop)
            assert (codes.dtype, codes.shape) == (np.int16, (stop - start, 8))
            assert np.array_equal(codes, was.codes[start:stop])
            if was.text is not None:
                assert np.array_equal(cache.read_text(row, start, stop), was.text[start:stop])
        for start, stop in ((-1, 1), (0, frames + 1), (1, 0)):
            with pytest.raises(ValueError, match=f"are not inside 0 to {frames}"):
                cache.read(row, start, stop)


def test_a_row_group_is_left_behind_and_read(tmp_path: Path) -> None:
    written = write_cache(tmp_path, list(range(1, 151)), per_shard=150)
    assert pq.ParquetFile(shard_uri(tmp_path, 0)).num_row_groups == 3
    cache = ChapterCache.open(tmp_path)
    for row in (0, 63, 64, 127, 128, 149):
        assert np.array_equal(cache.read(row, 0, row + 1), written[row].codes)


def test_other_readers_of_parquet_find_plain_columns(tmp_path: Path) -> None:
    written = write_cache(tmp_path, [5, 9], text=True)
    table = pq.read_table(shard_uri(tmp_path, 0))
    assert table.schema.field("codes").type == pa.binary()
    assert table["joins"].to_pylist() == [[2], [4]]
    codes = np.frombuffer(table["codes"][1].as_py(), "<i2").reshape(-1, 8)
    assert np.array_equal(codes, written[1].codes)
    assert np.array_equal(np.frombuffer(table["text"][1].as_py(), "<i4"), written[1].text)


def test_the_same_chapters_give_the_same_bytes_and_any_store_holds_them(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b", "memory://chapter_cache_test"):
        written = write_cache(folder, LENGTHS, text=True)
    names = ["index.arrow", "shards/shard-00000.parquet", "shards/shard-00001.parquet"]
    for name in names:
        a, b, there = (
            storage.read_bytes(storage.join(folder, *name.split("/")))
            for folder in (tmp_path / "a", tmp_path / "b", "memory://chapter_cache_test")
        )
        assert a == b == there
    remote = ChapterCache.open("memory://chapter_cache_test")
    assert np.array_equal(remote.read(6, 500, 700), written[6].codes[500:700])
    storage.delete("memory://chapter_cache_test")


def _damage(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none: no such cache; write it with ray_jobs\.cache_ch"):
        ChapterCache.open(tmp_path / "none")
    write_impulse_cache(tmp_path / "decoder", [[3]])
    with pytest.raises(UserError, match=r"no ttt\.chapters_version in its schema; it is not of"):
        ChapterCache.open(tmp_path / "decoder")
    write_cache(tmp_path / "c", LENGTHS)
    index, shard = Path(index_uri(tmp_path / "c")), Path(shard_uri(tmp_path / "c", 0))
    cache = ChapterCache.open(tmp_path / "c")
    offset = int(cache._offsets["codes"][2])
    _damage(shard, offset + 16 * 10, b"\xff\x7f")
    assert cache.read(2, 0, 10).max() < 64
    with pytest.raises(UserError, match=r"chapter 2/book/2: its codes .* to 32767, and 0 to 63 "):
        cache.read(2, 0, 11)
    _damage(shard, offset - 4, b"\x00\x00\x00\x01")
    with pytest.raises(UserError, match="the index was made of another file"):
        ChapterCache.open(tmp_path / "c").read(2, 0, 1)
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(UserError, match=r"shard-00000\.parquet: has .* and the index was made of"):
        ChapterCache.open(tmp_path / "c")
    shard.unlink()
    with pytest.raises(UserError, match=r"shard-00000\.parquet: is missing, and the index"):
        ChapterCache.open(tmp_path / "c")
    write_shard(shard, [chapter(9, 9)], ShardHeader(MIMI))
    write_shard(shard_uri(tmp_path / "c", 7), [chapter(8, 9)], ShardHeader(MIMI))
    with pytest.raises(UserError, match=r"does not know shard-00007\.parquet, it is stale"):
        ChapterCache.open(tmp_path / "c")
    index.write_bytes(index.read_bytes()[:200])
    with pytest.raises(UserError, match=r"index\.arrow: damaged"):
        ChapterCache.open(tmp_path / "c")
    index.unlink()
    with pytest.raises(UserError, match=r"has no index\.arrow, so it is not finished; run"):
        ChapterCache.open(tmp_path / "c")


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({}, r"no ttt\.chapters_version in its schema"),
        ({"ttt.chapters_version": "2"}, "format version 2, this program reads 1; cache again"),
        ({"ttt.chapters_version": "1"}, "does not say whose codes and text it holds"),
        ({"ttt.chapters_version": "1", "ttt.codes": "{"}, "does not say whose codes and text"),
        ({"ttt.chapters_version": "1", "ttt.codes": '{"a": 1}'}, "does not say whose codes and"),
    ],
)
def test_a_header_that_says_nothing_is_one_sentence(
    tmp_path: Path, metadata: dict[str, str], sentence: str
) -> None:
    write_cache(tmp_path, [4])
    table = pa.ipc.open_file(Path(index_uri(tmp_path)).read_bytes()).read_all()
    table = table.replace_schema_metadata(metadata)
    with pa.ipc.new_file(index_uri(tmp_path), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match=sentence):
        ChapterCache.open(tmp_path)


def test_shards_of_two_mimis_or_compressed_ones_make_no_index(tmp_path: Path) -> None:
    write_cache(tmp_path, [4, 4], per_shard=1)
    path = shard_uri(tmp_path, 1)
    other = dataclasses.replace(MIMI, device="cuda")
    write_shard(path, [chapter(1, 4)], ShardHeader(other))
    with pytest.raises(UserError, match=r"its Mimi or base model differs from shard-00000\.parq"):
        build_index(tmp_path)
    write_shard(path, [chapter(1, 4)], ShardHeader(MIMI))
    pq.write_table(pq.read_table(path), path, compression="zstd")
    with pytest.raises(UserError, match=r"its codes are not where n_frames puts them"):
        build_index(tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"codes": np.zeros((3, 7), np.int16)}, r"codes are int16 \(3, 7\)"),
        ({"codes": np.zeros((0, 8), np.int16)}, r"codes are int16 \(0, 8\)"),
        ({"codes": np.zeros((3, 8), np.int64)}, r"codes are int64"),
        ({"codes": np.full((3, 8), 64, np.int16)}, "holds 64 to 64, and 0 to 63 are possible"),
        ({"codes": np.full((3, 8), -1, np.int16)}, "holds -1 to -1"),
        ({"text": np.zeros(3, np.int32)}, "its text is missing, or nobody's"),
    ],
)
def test_a_chapter_that_does_not_fit_is_named(
    tmp_path: Path, changes: dict[str, np.ndarray], sentence: str
) -> None:
    bad = dataclasses.replace(chapter(0, 3), **changes)
    with pytest.raises(UserError, match=f"chapter 0/book/0: {sentence}"):
        write_shard(tmp_path / "x.parquet", [chapter(1, 3), bad], ShardHeader(MIMI))
    assert list(tmp_path.iterdir()) == []


def test_another_mimi_and_another_models_text_are_refused(tmp_path: Path) -> None:
    write_cache(tmp_path / "with", [4], text=True)
    write_cache(tmp_path / "without", [4])
    cache, bare = ChapterCache.open(tmp_path / "with"), ChapterCache.open(tmp_path / "without")
    cache.require_mimi("nano", "a" * 64)
    with pytest.raises(UserError, match="by Mimi nano with weights aaaaaaaaaaaa, and Mimi tiny"):
        cache.require_mimi("tiny", "c" * 64)
    cache.require_text("base", "b" * 16)
    with pytest.raises(UserError, match=r"of other \(c{16}\) is needed, and it is that of base"):
        cache.require_text("other", "c" * 16)
    with pytest.raises(UserError, match="is needed, and it has none; cache again with text"):
        bare.require_text("base", "b" * 16)
    with pytest.raises(UserError, match="has no text; cache again with text set"):
        bare.read_text(0, 0, 1)
