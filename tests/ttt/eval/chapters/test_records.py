"""Records come back as written, exactly once, whenever the writer was killed."""

import os
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ttt.errors import UserError
from ttt.eval.chapters.records import (
    ChapterDetails,
    ChapterWriter,
    NonFiniteLoss,
    file_stem,
    read_record,
    read_records,
    record_path,
)

ID = "7/book/ch..2"


def _frames(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames that can be told apart: nll [8, count], text [count]."""
    at = np.arange(first, first + count)
    return (at + np.arange(8)[:, None] / 8).astype(np.float32), at.astype(np.int32)


def _details(**fields: object) -> ChapterDetails:
    given = {"chapter_id": ID, "speaker": "7", "model": "ttt", "codes_sha256": "ab", **fields}
    return ChapterDetails(**given)  # type: ignore[arg-type]


def test_a_record_comes_back_as_written(tmp_path: Path) -> None:
    details = _details(
        joins=(3, 70_000), chunks=((0, 64), (128, 32)), group=(ID,), seconds=1.5, acceptance=7.25,
        activity_frames=(16, 32), activity={"3": (0.1, 0.2)},
    )  # fmt: skip
    with ChapterWriter(tmp_path, ID) as writer:
        for first in range(0, 80_000, 8_000):
            writer.append(*_frames(first, 8_000))
        path = writer.finish(details)
    assert path == record_path(tmp_path, ID) == tmp_path / "7/book/ch..2.parquet"
    record = read_record(path)
    nll, text = _frames(0, 80_000)
    assert record.details == details
    assert np.array_equal(record.nll, nll)
    assert np.array_equal(record.text, text)
    table = pq.read_table(path)
    assert table.schema.names == ["frame", *(f"nll_{k}" for k in range(8)), "text", "join"]
    assert np.flatnonzero(table["join"].to_numpy()).tolist() == [3, 70_000]
    assert table["frame"].to_numpy().tolist() == list(range(80_000))
    assert [p.name for p in (tmp_path / "7/book").iterdir()] == ["ch..2.parquet"]


def test_what_came_after_the_state_is_cut_off(tmp_path: Path) -> None:
    writer = ChapterWriter(tmp_path, ID)
    writer.append(*_frames(0, 100))
    assert writer.sync() == 100
    writer.append(*_frames(500, 37))
    writer.close()
    with open(tmp_path / "7/book/ch..2.frames", "ab") as file:
        file.write(b"half a frame")
    with ChapterWriter(tmp_path, ID, frames=100) as again:
        again.append(*_frames(100, 50))
        record = read_record(again.finish(_details()))
    assert np.array_equal(record.nll, _frames(0, 150)[0])


def test_a_state_ahead_of_the_disk_is_refused(tmp_path: Path) -> None:
    with ChapterWriter(tmp_path, ID) as writer:
        writer.append(*_frames(0, 10))
    with pytest.raises(UserError, match="holds 10 frames and the chapter's state counts 11"):
        ChapterWriter(tmp_path, ID, frames=11)


def test_a_loss_that_is_no_number_is_named_and_not_written(tmp_path: Path) -> None:
    with ChapterWriter(tmp_path, ID) as writer:
        writer.append(*_frames(0, 20))
        nll, text = _frames(20, 10)
        nll[3, 4] = np.nan
        with pytest.raises(
            NonFiniteLoss, match=r"ch..2: the loss of codebook 3 at frame 24 is nan"
        ):
            writer.append(nll, text)
        assert writer.sync() == 20


def test_nothing_and_garbage_are_refused(tmp_path: Path) -> None:
    with ChapterWriter(tmp_path, ID) as writer, pytest.raises(UserError, match="no frame was"):
        writer.finish(_details())
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="not a readable record of a chapter"):
        read_record(path)


def test_records_are_read_in_natural_order(tmp_path: Path) -> None:
    for name in ("1/b/c_10", "1/b/c_9", "0/b/c_1"):
        with ChapterWriter(tmp_path, name) as writer:
            writer.append(*_frames(0, 5))
            writer.finish(_details(chapter_id=name))
    read = [record.details.chapter_id for record in read_records(tmp_path)]
    assert read == ["0/b/c_1", "1/b/c_9", "1/b/c_10"]


LONG = [
    "7/book/" + "a" * 233,
    "7/book/" + "a" * 234,
    "7/book/" + "n" * 255,
    "7/book/" + "é" * 127,
    "7/book/" + "n" * 250 + ".." + "n" * 249 + "2",
    "é" * 400 + "/x",
    "/".join(["deep" * 30] * 25 + ["x"]),
    "7/a\nb/#50%?",
    "-rf/--/-",
]


@pytest.mark.parametrize("chapter_id", LONG)
def test_a_chapter_of_any_name_has_a_record_of_its_own(tmp_path: Path, chapter_id: str) -> None:
    others = [chapter_id + "3", chapter_id[:-1]]
    assert len({record_path(tmp_path, each) for each in (chapter_id, *others)}) == 3
    with ChapterWriter(tmp_path, chapter_id) as writer:
        writer.append(*_frames(0, 3))
        writer.sync()
        assert not record_path(tmp_path, chapter_id).exists()
        path = writer.finish(_details(chapter_id=chapter_id))
    assert path == record_path(tmp_path, chapter_id)
    assert [record.details.chapter_id for record in read_records(tmp_path)] == [chapter_id]
    if len(chapter_id.rpartition("/")[2].encode()) <= 233 and len(chapter_id) < 300:
        assert path == tmp_path / f"{chapter_id}.parquet"  # As it was always called.
    state = tmp_path / f"{file_stem(chapter_id, 229)}.safetensors"
    assert not state.exists()


def test_memory_does_not_grow_with_the_chapter(tmp_path: Path) -> None:
    def peak(frames: int) -> int:
        tracemalloc.start()
        with ChapterWriter(tmp_path, f"c{frames}") as writer:
            for first in range(0, frames, 500):
                writer.append(*_frames(first, 500))
            writer.finish(_details())
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(40_000)
    assert peak(400_000) < 1.05 * peak(40_000)


def _evaluate(root: Path, die_at_frame: int | None) -> None:
    """Appends in steps of 20 frames and saves its state every 100, as the job does."""
    state = root / "state"
    done = int(state.read_text()) if state.exists() else 0
    with ChapterWriter(root, ID, frames=done) as writer:
        while writer.frames < 2_000:
            writer.append(*_frames(writer.frames, 20))
            if writer.frames % 100 == 0:
                (root / "state.tmp").write_text(str(writer.sync()))
                os.replace(root / "state.tmp", state)
            if die_at_frame is not None and writer.frames >= die_at_frame:
                os.kill(os.getpid(), signal.SIGKILL)
        writer.finish(_details())


def test_killed_at_any_time_and_resumed_every_frame_is_there_once(tmp_path: Path) -> None:
    for die_at_frame in (20, 140, 300, 500, 1_000, 1_960):
        root = tmp_path / str(die_at_frame)
        root.mkdir()
        child = os.fork()
        if child == 0:
            _evaluate(root, die_at_frame)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        _evaluate(root, None)
        record = read_record(record_path(root, ID))
        nll, text = _frames(0, 2_000)
        assert np.array_equal(record.nll, nll)
        assert np.array_equal(record.text, text)
