"""Chapters that a manifest names, and several roots at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ttt.errors import UserError
from ttt.eval.chapters.find import Chapter, Unreadable, find_chapters
from ttt.eval.config import ChapterConfig


def _audio(path: Path, seconds: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(seconds * 16_000)), 16_000)
    return path


def _find(root: Any, **settings: Any) -> tuple[list[Chapter], list[Unreadable]]:
    root = str(root) if isinstance(root, Path) else tuple(map(str, root))
    return find_chapters(ChapterConfig(root=root, **settings))


def _ids(chapters: list[Chapter]) -> list[str]:
    return [chapter.chapter_id for chapter in chapters]


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_a_manifest_finds_what_a_folder_finds(tmp_path: Path, kind: str) -> None:
    names = [f"{name}.flac" for name in ("10/a/ch_10", "10/a/ch_2", "9/b/ch_1", "10/a/ch_1")]
    for name in names:
        _audio(tmp_path / name).with_suffix(".json").write_text("{}")
    keys = ("audio_filepath", "path", "path", "audio_filepath")
    lines = [json.dumps({key: name}) for key, name in zip(keys, names, strict=True)]
    manifest = tmp_path / f"list.{kind}"
    manifest.write_text("\n".join(lines if kind == "jsonl" else names) + "\n\n")
    (tmp_path / "not_listed.flac").write_text("not looked at")
    chapters, unreadable = _find(manifest)
    assert not unreadable
    assert _ids(chapters) == ["9/b/ch_1", "10/a/ch_1", "10/a/ch_2", "10/a/ch_10"]
    (tmp_path / "not_listed.flac").unlink()
    assert chapters == _find(tmp_path)[0]


def test_cut_pieces_of_a_manifest_are_joined_and_files_elsewhere_keep_their_path(
    tmp_path: Path,
) -> None:
    for name in ("in/7/b/x_0001", "in/7/b/x_0000", "out/8/c/y_0000"):
        _audio(tmp_path / f"{name}.flac")
    manifest = tmp_path / "in" / "list.txt"
    paths = ["7/b/x_0001.flac", "7/b/x_0000.flac", "../out/8/c/y_0000.flac"]
    manifest.write_text("\n".join(paths))
    chapters, _ = _find(manifest)
    inside, outside = sorted(chapters, key=lambda each: each.speaker)
    assert [Path(piece.path).name for piece in inside.pieces] == ["x_0000.flac", "x_0001.flac"]
    assert (inside.chapter_id, inside.book) == ("7/b/x", "b")
    assert outside.chapter_id == f"{tmp_path}/out/8/c/y".lstrip("/")
    assert (outside.speaker, outside.files) == ("8", (str(tmp_path / "out/8/c/y_0000.flac"),))


def test_a_line_says_who_speaks(tmp_path: Path) -> None:
    for name in "abcd":
        _audio(tmp_path / f"{name}.flac")
    speakers: list[Any] = ["ann", 7, None, True]
    lines = [
        json.dumps({"path": f"{name}.flac", "speaker": speaker})
        for name, speaker in zip("abcd", speakers, strict=True)
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    chapters, _ = _find(tmp_path / "list.jsonl")
    assert [each.speaker for each in chapters] == ["ann", "7", "unknown", "unknown"]


def test_lines_that_lead_nowhere_are_unreadable_chapters(tmp_path: Path) -> None:
    _audio(tmp_path / "1/a/x.flac").with_suffix(".json").write_text("{}")
    lines = [
        '{"path": "1/a/x.flac"}',
        "{",
        '{"path": "1/a/y.flac"}',
        '{"path": "s3://b/1/a/z.wav"}',
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    chapters, unreadable = _find(tmp_path / "list.jsonl")
    assert _ids(chapters) == ["1/a/x"]
    reasons = " | ".join(each.reason for each in unreadable)
    assert len(unreadable) == 3
    assert "list.jsonl:2: line 2 is no JSON" in reasons
    assert "1/a/y.flac: no such file" in reasons
    assert "lies at a URI, and chapters are read from disks: copy it" in reasons


def test_several_roots_are_told_apart_by_their_names(tmp_path: Path) -> None:
    for name in ("one/1/a/x", "two/1/a/x", "two/2/b/y"):
        _audio(tmp_path / f"{name}.flac").with_suffix(".json").write_text("{}")
    (tmp_path / "two/list.txt").write_text("2/b/y.flac\n")
    chapters, _ = _find([tmp_path / "two", tmp_path / "one"])
    assert _ids(chapters) == ["two/1/a/x", "two/2/b/y", "one/1/a/x"]
    assert {(each.speaker, each.book) for each in chapters} == {("1", "a"), ("2", "b")}
    chapters, _ = _find([tmp_path / "one", tmp_path / "two/list.txt"], speakers=("2",))
    assert _ids(chapters) == ["list.txt/2/b/y"]
    assert _ids(_find([tmp_path / "two", tmp_path / "one"], max_chapters=2)[0]) == [
        "two/1/a/x",
        "two/2/b/y",
    ]


def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path) -> None:
    def refuse(sentence: str, root: Any, **settings: Any) -> None:
        with pytest.raises(UserError, match=sentence):
            _find(root, **settings)

    _audio(tmp_path / "one/1/a/x.flac").with_suffix(".json").write_text("{}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/one").symlink_to(tmp_path / "one")
    refuse(
        "same chapter as /.* by its name; keep one of them",
        [tmp_path / "one", tmp_path / "other/one"],
    )
    refuse(
        "no such folder of chapters, and no manifest of them", [tmp_path / "one", tmp_path / "no"]
    )
    refuse("x.flac: is found twice; let data.root name each place once", [tmp_path / "one"] * 2)
    refuse("/one: speakers 3 not found; there are 1", tmp_path / "one", speakers=("3",))
    manifest = tmp_path / "list.txt"
    manifest.write_text("one/1/a/x.flac\n\none/1/a/x.flac\n")
    refuse(r"line 3 names one/1/a/x\.flac again, as line 1 does; name each file once", manifest)
    manifest.write_text("\n")
    refuse("no line names an audio file", manifest)
    for wrong, sentence in (
        ({"root": ()}, "root must name a folder or manifest"),
        ({}, "root must name a folder or manifest"),
        ({"cache": "c", "pauses": "cut"}, "pauses has no effect on a cache"),
        ({"cache": "c", "concatenate_seconds": 9.0}, "concatenate_seconds has no effect on a cac"),
    ):
        with pytest.raises(ValueError, match=sentence):
            ChapterConfig(**wrong)
