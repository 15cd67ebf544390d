"""Audio replaced under the same name and length is not the audio of the record."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from ray_jobs.moshi.chapters.run import JOB
from ray_jobs.moshi.evaluation import refuse_replaced_audio
from ttt.errors import UserError
from ttt.eval.chapters.find import Chapter, find_chapters
from ttt.eval.chapters.records import ChapterDetails, ChapterWriter, read_details, record_path
from ttt.eval.chapters.run import records_root
from ttt.eval.config import ChapterConfig
from ttt.files.errors import FileIdentity


def _write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = np.random.default_rng(seed).integers(-9, 9, 1600).astype(np.int16)
    soundfile.write(path, audio, 16_000, subtype="PCM_16")


def _plan(tmp_path: Path) -> Any:
    chapters, _ = find_chapters(ChapterConfig(root=str(tmp_path / "data"), layout="cut"))
    work = SimpleNamespace(variant=SimpleNamespace(name="ttt"), recordings=chapters)
    return SimpleNamespace(config=SimpleNamespace(output=str(tmp_path / "run")), work=[work])


def _record(tmp_path: Path, chapter: Chapter, *, noted: bool = True) -> None:
    audio = tuple(map(FileIdentity.of, chapter.files)) if noted else ()
    root = records_root(str(tmp_path / "run"), "ttt")
    with ChapterWriter(root, chapter.chapter_id) as writer:
        writer.append(np.zeros((8, 2), np.float32), np.zeros(2, np.int32))
        writer.finish(
            ChapterDetails(
                chapter_id=chapter.chapter_id,
                speaker="1",
                model="ttt",
                codes_sha256="ab",
                audio=audio,
            )
        )
    assert read_details(record_path(root, chapter.chapter_id)).audio == audio


def _heard(tmp_path: Path, *, noted: bool = True) -> Any:
    for name in ("a_0000", "a_0001", "b_0000"):
        _write(tmp_path / f"data/1/x/{name}.wav", len(name))
    plan = _plan(tmp_path)
    for chapter in plan.work[0].recordings:
        _record(tmp_path, chapter, noted=noted)
    return plan


@pytest.mark.parametrize("place", ["a_0000", "a_0001", "b_0000"])
def test_replaced_audio_is_refused_by_its_chapter(tmp_path: Path, place: str) -> None:
    plan = _heard(tmp_path)
    refuse_replaced_audio(JOB, plan)
    path = tmp_path / f"data/1/x/{place}.wav"
    status = path.stat()
    _write(path, 77)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    with pytest.raises(UserError, match=f"the audio of 1/x/{place[0]} has changed since ttt heard"):
        refuse_replaced_audio(JOB, _plan(tmp_path))


def test_touched_and_copied_audio_is_the_same_and_a_missing_record_is_no_matter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _heard(tmp_path)
    for path in (tmp_path / "data").rglob("*.wav"):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    refuse_replaced_audio(JOB, _plan(tmp_path))
    record_path(records_root(str(tmp_path / "run"), "ttt"), "1/x/a").unlink()
    _write(tmp_path / "data/1/x/a_0000.wav", 77)
    refuse_replaced_audio(JOB, _plan(tmp_path))
    assert capsys.readouterr().out == ""


def test_records_of_before_stand_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = _heard(tmp_path, noted=False)
    _write(tmp_path / "data/1/x/a_0000.wav", 77)
    refuse_replaced_audio(JOB, plan)
    assert "2 records do not say of which files they are" in capsys.readouterr().out
