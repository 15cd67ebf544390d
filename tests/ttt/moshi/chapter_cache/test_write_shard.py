"""Shards of chapters: every input ends in exactly one place, and what is broken is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.chapter_caches import MIMI, chapter, write_cache
from ttt import records, storage
from ttt.audio import Piece
from ttt.errors import UserError
from ttt.files.shards import index_uri, part_uri, shard_uri
from ttt.moshi.chapter_cache.index import build_index
from ttt.moshi.chapter_cache.inputs import ChapterInput, LeftOut
from ttt.moshi.chapter_cache.shard_file import CodedChapter, ShardHeader, write_shard
from ttt.moshi.chapter_cache.verify import verify_cache
from ttt.moshi.chapter_cache.write_shard import (
    cache_shard,
    check_manifest,
    is_finished,
    merge_manifest,
    refuse_replaced,
)

HEADER = ShardHeader(MIMI)


def _inputs(folder: Path, *numbers: int) -> list[ChapterInput]:
    """Chapters of a file of 100 bytes each."""
    found = []
    for number in numbers:
        path = folder / f"{number}.flac"
        path.write_bytes(bytes(100))
        name = f"{number % 3}/book/{number}"
        pieces = (Piece(str(path), 0, 16_000 * number, 16_000),)
        found.append(ChapterInput(name, str(number % 3), "book", pieces))
    return found


def _encode(each: ChapterInput) -> CodedChapter:
    number = int(each.chapter_id.rpartition("/")[2])
    if number == 7:
        raise UserError("7.flac: cut short")
    if number == 8:
        raise LeftOut("no text", "8 has no text")
    if number == 9:
        raise ZeroDivisionError("odd file")
    return dataclasses.replace(chapter(number, 13 * number), seconds=each.seconds)


def _cached(folder: Path) -> list[list[ChapterInput]]:
    """A finished cache in `folder`, of three shards."""
    shards = [_inputs(folder, 1, 7, 2), _inputs(folder, 8, 9), _inputs(folder, 4)]
    shards[2].append(ChapterInput("gone", problem="unreadable", note="gone: no such file"))
    for number, inputs in enumerate(shards):
        cache_shard(folder, number, inputs, _encode, HEADER)
    merge_manifest(folder, 3)
    build_index(folder)
    return shards


def test_one_line_per_input_in_order_and_counted(tmp_path: Path) -> None:
    shards = _cached(tmp_path)
    lines = list(records.read_jsonl(tmp_path / "manifest.jsonl"))
    assert [
        (line["chapter_id"], line["reason"], line["shard"], line["note"]) for line in lines
    ] == [
        ("1/book/1", None, 0, None),
        ("1/book/7", "unreadable", None, "7.flac: cut short"),
        ("2/book/2", None, 0, None),
        ("2/book/8", "no text", None, "8 has no text"),
        ("0/book/9", "failed", None, "ZeroDivisionError: odd file"),
        ("1/book/4", None, 2, None),
        ("gone", "unreadable", None, "gone: no such file"),
    ]
    assert merge_manifest(tmp_path, 3) == {
        "inputs": 7, "cached": 3, "left_out": 4,
        "left_out_by_reason": {"failed": 1, "no text": 1, "unreadable": 2},
        "hours": 7 / 3600, "frames": 13 * 7, "speakers": 2, "books": 2,
    }  # fmt: skip
    assert verify_cache(tmp_path) == []
    assert not Path(shard_uri(tmp_path, 1)).exists()
    assert all(is_finished(tmp_path, number, inputs) for number, inputs in enumerate(shards))


def test_a_shard_is_finished_when_its_files_agree_with_each_other_and_its_inputs(
    tmp_path: Path,
) -> None:
    inputs = _cached(tmp_path)[0]
    shard, part = Path(shard_uri(tmp_path, 0)), Path(part_uri(tmp_path, 0))
    whole, lines = shard.read_bytes(), part.read_bytes()
    assert not is_finished(tmp_path, 0, inputs[:2])
    assert not is_finished(tmp_path, 0, inputs[::-1])
    shard.write_bytes(whole[:-100])
    assert not is_finished(tmp_path, 0, inputs)
    shard.unlink()
    assert not is_finished(tmp_path, 0, inputs)
    part.unlink()
    assert not is_finished(tmp_path, 0, inputs)
    told: list[int] = []
    cache_shard(tmp_path, 0, inputs, _encode, HEADER, told.append)
    assert (shard.read_bytes(), part.read_bytes(), told) == (whole, lines, [1, 2, 3])


def test_a_replaced_file_is_refused_by_its_name(tmp_path: Path) -> None:
    inputs = _cached(tmp_path)[0]
    refuse_replaced(tmp_path, 0, inputs)
    (tmp_path / "7.flac").write_bytes(bytes(101))
    with pytest.raises(UserError, match=r"/7\.flac: has 101 bytes and had 100 when .*or delete"):
        refuse_replaced(tmp_path, 0, inputs)
    (tmp_path / "1.flac").unlink()
    with pytest.raises(UserError, match=r"/1\.flac: is missing and had 100 when"):
        refuse_replaced(tmp_path, 0, inputs)


def test_a_lost_device_is_no_chapters_fault(tmp_path: Path) -> None:
    def lost(_: ChapterInput) -> CodedChapter:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure\nadvice")

    with pytest.raises(Exception, match="unspecified launch failure"):
        cache_shard(tmp_path, 0, _inputs(tmp_path, 1), lost, HEADER)
    assert not Path(part_uri(tmp_path, 0)).exists()


def test_a_manifest_that_disagrees_with_the_shards_is_named(tmp_path: Path) -> None:
    _cached(tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[1:]).replace('"frames": 26', '"frames": 27'))
    assert check_manifest(tmp_path) == [
        f"{manifest}: chapter 1/book/1 has no frames here and 13 in the shards",
        f"{manifest}: chapter 2/book/2 has 27 frames here and 26 in the shards",
    ]
    manifest.unlink()
    (problem,) = check_manifest(tmp_path)
    assert problem.endswith("missing, the job has not finished; run it again")


def test_what_is_broken_is_said(tmp_path: Path) -> None:
    (problem,) = verify_cache(tmp_path / "none")
    assert problem.endswith("no such cache; write it with ray_jobs.cache_chapters")
    write_cache(tmp_path, [5, 6, 7], per_shard=2)
    shard = Path(shard_uri(tmp_path, 0))
    content = shard.read_bytes()
    codes = np.ascontiguousarray(chapter(1, 6).codes, "<i2").tobytes()
    at = content.index(codes)
    for change, sentence in (
        (b"\x01\x00\x02\x00", "chapter 1/book/1: the digest of its codes differs"),
        (b"\x40\x00", "chapter 1/book/1: the digest of its codes differs"),
    ):
        assert content[at : at + len(change)] != change
        shard.write_bytes(content[:at] + change + content[at + len(change) :])
        (problem,) = verify_cache(tmp_path)
        assert sentence in problem
    shard.write_bytes(content)
    write_shard(shard_uri(tmp_path, 1), [chapter(0, 9)], HEADER)
    (problem,) = verify_cache(tmp_path)
    assert problem.endswith("chapter 0/book/0: the same id is in shard-00000.parquet")
    joins = dataclasses.replace(chapter(2, 7), joins=(5, 3))
    write_shard(shard_uri(tmp_path, 1), [joins], HEADER)
    (problem,) = verify_cache(tmp_path)
    assert problem.endswith("chapter 2/book/2: joins [5, 3] do not rise from 0 to below 7")
    write_shard(shard_uri(tmp_path, 1), [chapter(2, 8)], HEADER)
    problems = verify_cache(tmp_path)
    assert "index.arrow differs from what the shards hold" in problems[0]
    storage.delete(index_uri(tmp_path))
    assert "has no index.arrow, so it is not finished" in verify_cache(tmp_path)[0]
    shard.write_bytes(content[:-50])
    assert "not a readable parquet file" in verify_cache(tmp_path)[0]
