"""One shard of a cache of chapters from its inputs, and the records that account for every input.

A shard leaves two files: its parquet with the chapters that could be encoded (none when no input
could) and, written after it, its .jsonl with one line per input. The .jsonl is the commit point: a
shard is finished when it is there and the parquet holds the chapters that it counts. Both are pure
functions of the inputs, so a shard done again has the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ttt import records, retries, storage
from ttt.device_errors import raise_if_lost
from ttt.errors import UserError
from ttt.files.parquets import open_parquet, whole_file
from ttt.files.shards import line_text, part_uri, read_part, refuse_other_size, shard_uri
from ttt.moshi.chapter_cache.index import read_catalogue
from ttt.moshi.chapter_cache.inputs import ChapterInput, LeftOut
from ttt.moshi.chapter_cache.shard_file import CodedChapter, ShardHeader, write_shard

Encode = Callable[[ChapterInput], CodedChapter]
"""Encodes a chapter; raises UserError for what is wrong with its audio, LeftOut for the rest."""


def cache_shard(
    cache_uri: str | Path,
    number: int,
    inputs: Sequence[ChapterInput],
    encode: Encode,
    header: ShardHeader,
    on_input: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Encode and write shard `number`; returns its lines of the manifest.

    What goes wrong with one chapter is its line; a device that is lost, or a disk that is full,
    raises. `on_input` hears how many inputs are done.
    """
    chapters: list[CodedChapter] = []
    lines: list[dict[str, Any]] = []
    for chapter in inputs:
        size = chapter.size_on_disk()
        outcome = _outcome(chapter, encode)
        if isinstance(outcome, CodedChapter):
            chapters.append(outcome)
        lines.append(_line(chapter, outcome, number, size))
        on_input(len(lines))
    if chapters:
        write_shard(shard_uri(cache_uri, number), chapters, header)
    else:
        storage.delete(shard_uri(cache_uri, number))
    storage.write_bytes(part_uri(cache_uri, number), "".join(map(line_text, lines)).encode())
    return lines


def is_finished(cache_uri: str | Path, number: int, inputs: Sequence[ChapterInput]) -> bool:
    """Whether a shard's two files are there and agree with each other and with `inputs`."""
    if not storage.exists(part_uri(cache_uri, number)):
        return False
    lines = read_part(cache_uri, number)
    if [line["chapter_id"] for line in lines] != [each.chapter_id for each in inputs]:
        return False
    count = sum(line["status"] == "cached" for line in lines)
    if count == 0:
        return True
    try:
        with open_parquet(shard_uri(cache_uri, number)) as shard:
            return shard.metadata.num_rows == count
    except retries.StorageUnavailable:
        raise
    except UserError:
        return False


def refuse_replaced(cache_uri: str | Path, number: int, inputs: Sequence[ChapterInput]) -> None:
    """Raise UserError where an input's files have another size than when its shard was made."""
    part = part_uri(cache_uri, number)
    for chapter, line in zip(inputs, read_part(cache_uri, number), strict=True):
        place = ", ".join(chapter.files[:1]) or chapter.chapter_id
        refuse_other_size(part, place, line["file_bytes"], chapter.size_on_disk())


def merge_manifest(cache_uri: str | Path, n_shards: int) -> dict[str, Any]:
    """Join the shards' lines to manifest.jsonl, in input order, and count them.

    Returns inputs, cached, left_out, left_out_by_reason, hours, frames, speakers and books.
    """
    reasons: Counter[str] = Counter()
    speakers: set[str] = set()
    books: set[tuple[str, str]] = set()
    cached, frames, seconds = 0, 0, 0.0
    with whole_file(storage.join(cache_uri, "manifest.jsonl")) as sink:
        for number in range(n_shards):
            lines = read_part(cache_uri, number)
            sink.write("".join(map(line_text, lines)).encode())
            for line in lines:
                if line["status"] != "cached":
                    reasons[line["reason"]] += 1
                    continue
                cached += 1
                frames += line["frames"]
                seconds += line["seconds"]
                speakers.add(line["speaker"])
                books.add((line["speaker"], line["book"]))
    left_out = sum(reasons.values())
    return {
        "inputs": cached + left_out,
        "cached": cached,
        "left_out": left_out,
        "left_out_by_reason": dict(sorted(reasons.items())),
        "hours": seconds / 3600,
        "frames": frames,
        "speakers": len(speakers),
        "books": len(books),
    }


def check_manifest(cache_uri: str | Path) -> list[str]:
    """Sentences on where manifest.jsonl and the shards of a finished cache disagree."""
    uri = storage.join(cache_uri, "manifest.jsonl")
    if not storage.exists(uri):
        return [f"{uri}: missing, the job has not finished; run it again"]
    with storage.local_copy(uri) as path:
        lines = list(records.read_jsonl(path))
    listed = {line["chapter_id"]: line["frames"] for line in lines if line["status"] == "cached"}
    catalogue = read_catalogue(cache_uri)
    names, frames = (catalogue[name].to_pylist() for name in ("chapter_id", "n_frames"))
    stored = dict(zip(names, frames, strict=True))
    return [
        f"{uri}: chapter {name} has {listed.get(name, 'no')} frames here and "
        f"{stored.get(name, 'no')} in the shards"
        for name in sorted({*listed, *stored})
        if listed.get(name) != stored.get(name)
    ]


def _outcome(chapter: ChapterInput, encode: Encode) -> CodedChapter | tuple[str, str]:
    """The chapter with its codes, or the reason why there are none and a note."""
    if chapter.problem is not None:
        return chapter.problem, chapter.note
    try:
        return encode(chapter)
    except retries.StorageUnavailable:
        raise  # The chapter may well be sound.
    except LeftOut as left_out:
        return left_out.reason, left_out.note
    except UserError as error:
        return "unreadable", str(error)
    except Exception as error:
        raise_if_lost(error)
        # One odd file must not cost its shard; it is recorded and counted like every other.
        return "failed", f"{type(error).__name__}: {error}"


def _line(
    chapter: ChapterInput,
    outcome: CodedChapter | tuple[str, str],
    number: int,
    file_bytes: int | None,
) -> dict[str, Any]:
    is_cached = isinstance(outcome, CodedChapter)
    return {
        "chapter_id": chapter.chapter_id,
        "status": "cached" if is_cached else "left_out",
        "reason": None if is_cached else outcome[0],
        "note": (chapter.note or None) if is_cached else outcome[1],
        "shard": number if is_cached else None,
        "speaker": chapter.speaker,
        "book": chapter.book,
        "frames": len(outcome.codes) if is_cached else None,
        "seconds": outcome.seconds if is_cached else chapter.seconds if chapter.pieces else None,
        "file_bytes": file_bytes,
    }
