"""The plan of windows: every frame once an epoch, the same for any number of workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.chapter_caches import write_cache
from ttt.errors import UserError
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.moshi.chapter_cache.windows import (
    ChapterWindowPlan,
    ChapterWindows,
    ChapterWindowShape,
    read_windows,
)
from ttt.training.micro_batches import BatchId, rank_micro_batches

SHAPES = [
    ChapterWindowShape(*numbers) for numbers in ((1, 3, 2), (7, 4, 4), (50, 1, 1), (90, 2, 8))
]


def _plan(lengths: list[int], seed: int = 1, rows: np.ndarray | None = None) -> ChapterWindowPlan:
    return ChapterWindowPlan(np.array(lengths), seed, rows)


def _epoch(
    plan: ChapterWindowPlan, shape: ChapterWindowShape, epoch: int, worlds: int = 1
) -> list[list[ChapterWindows]]:
    """The micro-batches of each step, as `worlds` workers share them out."""
    return [
        [
            plan.windows(shape, BatchId(epoch, step, micro))
            for rank in range(worlds)
            for micro in rank_micro_batches(rank, worlds, shape.micro_batches_per_step)
        ]
        for step in range(plan.steps(shape))
    ]


def _heard(windows: list[ChapterWindows], lengths: list[int]) -> list[np.ndarray]:
    """How often each frame of each chapter is heard."""
    counts = [np.zeros(length, int) for length in lengths]
    for each in windows:
        for row, start, frames in zip(each.rows, each.start, each.frames, strict=True):
            assert (frames > 0) == (row >= 0)
            assert 0 <= frames <= each.length
            assert row < 0 or start + frames <= lengths[row]
            if frames:
                counts[row][start : start + frames] += 1
    return counts


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("epoch", [1, 2, 9])
def test_an_epoch_hears_every_frame_once(shape: ChapterWindowShape, epoch: int) -> None:
    lengths = [1, 2, 6, 7, 8, 13, 14, 15, 89, 90, 49, 50, 51]
    flat = [each for step in _epoch(_plan(lengths), shape, epoch) for each in step]
    assert all((counts == 1).all() for counts in _heard(flat, lengths))
    assert {each.rows.shape for each in flat} == {(shape.windows_per_micro_batch,)}
    assert {each.length for each in flat} == {shape.frames}
    filled = sum(int(each.frames.sum()) for each in flat)
    slots = len(flat) * shape.windows_per_micro_batch * shape.frames
    assert _plan(lengths).padding_share(shape) == pytest.approx(1 - filled / slots)


def test_cuts_move_with_epoch_and_seed_over_all_of_the_surplus() -> None:
    shape, lengths = ChapterWindowShape(10, 1, 1), [14] * 50

    def cuts(seed: int, epoch: int) -> list[int]:
        flat = [w for step in _epoch(_plan(lengths, seed), shape, epoch) for w in step]
        firsts = {int(w.rows[0]): int(w.frames[0]) for w in flat if w.start[0] == 0}
        return [firsts[row] for row in range(50)]

    assert cuts(1, 1) == cuts(1, 1) != cuts(1, 2) != cuts(2, 1)
    seen = np.concatenate([cuts(1, epoch) for epoch in range(1, 41)])
    # 2,000 draws over the 7 places 4 to 10: the expected 286 with a standard deviation of 16.
    counts = np.bincount(seen, minlength=11)[4:]
    assert (counts.min() > 220, counts.max() < 350, len(counts)) == (True, True, 7)


@pytest.mark.parametrize("worlds", [1, 2, 4])
def test_any_number_of_workers_has_the_same_windows_in_the_same_steps(worlds: int) -> None:
    shape, lengths = ChapterWindowShape(7, 3, 4), [30] * 11

    def contents(worlds: int) -> list[list[tuple[int, int, int]]]:
        return [
            sorted(
                window
                for each in step
                for window in zip(*map(np.ndarray.tolist, (each.rows, each.start, each.frames)),
                                  strict=True)
            )
            for step in _epoch(_plan(lengths), shape, 3, worlds)
        ]  # fmt: skip

    assert contents(worlds) == contents(1)


def test_any_batch_may_be_asked_for_first_and_the_last_step_is_dealt_out() -> None:
    shape, lengths = ChapterWindowShape(7, 3, 4), [30] * 11
    plan = _plan(lengths)
    assert (plan.count(shape), plan.steps(shape)) == (55, 5)
    whole = [each for step in _epoch(plan, shape, 2) for each in step]
    again = _plan(lengths).windows(shape, BatchId(2, 3, 1))
    assert all(
        np.array_equal(getattr(again, name), getattr(whole[13], name))
        for name in ("rows", "start", "frames")
    )
    # 55 windows in steps of 12: the last seven go to four micro-batches as 2, 2, 2, 1.
    assert [int((each.rows >= 0).sum()) for each in whole[-4:]] == [2, 2, 2, 1]
    for batch in (BatchId(1, 5, 0), BatchId(1, 0, 4), BatchId(1, -1, 0)):
        with pytest.raises(IndexError, match="is not in the plan of 5 steps"):
            plan.windows(shape, batch)


def test_rows_may_be_chosen_and_too_long_a_window_is_one_sentence() -> None:
    rows = np.array([1, 3])
    plan = _plan([9, 10, 11, 12], rows=rows)
    shape = ChapterWindowShape(5, 2, 1)
    flat = [each for step in _epoch(plan, shape, 1) for each in step]
    assert set(np.concatenate([each.rows for each in flat]).tolist()) <= {-1, 1, 3}
    assert sum(int(each.frames.sum()) for each in flat) == 22
    with pytest.raises(UserError, match=r"windows of 13 frames are longer than every one of 2 cha"):
        plan.steps(ChapterWindowShape(13, 2, 1))
    plan.steps(ChapterWindowShape(12, 2, 1))


def test_windows_are_read_with_their_padding(tmp_path: Path) -> None:
    written = write_cache(tmp_path, [5, 23, 40, 9], text=True)
    cache = ChapterCache.open(tmp_path)
    plan, shape = ChapterWindowPlan(cache.n_frames, 4), ChapterWindowShape(12, 3, 2)
    for step in range(plan.steps(shape)):
        for micro in range(2):
            id = BatchId(1, step, micro)
            windows = plan.windows(shape, id)
            batch = read_windows(cache, windows, id, text=True)
            assert batch.codes.shape == (3, 12, 8)
            assert batch.text is not None
            assert read_windows(cache, windows, id).text is None
            for place, (row, start, frames) in enumerate(
                zip(windows.rows, windows.start, windows.frames, strict=True)
            ):
                was = written[row]
                assert was.text is not None
                assert np.array_equal(
                    batch.codes[place, :frames], was.codes[start : start + frames]
                )
                assert np.array_equal(batch.text[place, :frames], was.text[start : start + frames])
                assert not batch.codes[place, frames:].any()
                assert not batch.text[place, frames:].any()
