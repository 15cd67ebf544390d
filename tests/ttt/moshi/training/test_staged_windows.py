"""Windows of a run in stages: every pass hears every frame once, however steps are shared out."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from ttt.errors import UserError
from ttt.moshi.chapter_cache.windows import ChapterWindowPlan, ChapterWindowShape
from ttt.moshi.training.config import MemoryConfig, WindowStageConfig
from ttt.moshi.training.staged_windows import StagedWindows, stage_shape
from ttt.training.micro_batches import BatchId

LENGTHS = np.array([40, 95, 7, 61])
STAGES = (
    WindowStageConfig(frames=10, steps=14, frames_per_step=40),
    WindowStageConfig(frames=30, steps=11, frames_per_step=60),
    WindowStageConfig(frames=95, steps=4, frames_per_step=95),
)


def staged(frames_together: int | None = None, lengths: np.ndarray = LENGTHS) -> StagedWindows:
    memory = MemoryConfig(frames_per_micro_batch=frames_together)
    plan = ChapterWindowPlan(lengths, seed=5)
    return StagedWindows(plan, STAGES, [stage_shape(stage, memory) for stage in STAGES])


def spans(windows: StagedWindows, stage: int, step: int) -> Counter[tuple[int, int, int]]:
    """(row, start, frames) of a step."""
    found: Counter[tuple[int, int, int]] = Counter()
    for micro in range(windows.shapes[stage - 1].micro_batches_per_step):
        each = windows.windows(BatchId(stage, step, micro))
        found.update(
            zip(each.rows.tolist(), each.start.tolist(), each.frames.tolist(), strict=True)
        )
    del found[(-1, 0, 0)]
    return found


def test_a_pass_hears_every_frame_once_and_no_two_are_cut_alike():
    windows, cuts = staged(), []
    for index, stage in enumerate(STAGES):
        steps = round(stage.steps / windows.passes[index])
        for first in range(0, stage.steps - steps + 1, steps):
            heard = [np.zeros(length, int) for length in LENGTHS]
            cut = []
            for step in range(first, first + steps):
                for row, start, frames in spans(windows, index + 1, step):
                    heard[row][start : start + frames] += 1
                    cut.append((row, start, frames))
            assert all((each == 1).all() for each in heard), (stage, first)
            cuts.append(tuple(cut))
    assert len(set(cuts)) == len(cuts) == 5


@pytest.mark.parametrize("together", [None, 10, 25, 60, 1000])
def test_steps_hold_the_same_windows_however_many_go_together(together: int | None):
    one_by_one, other = staged(), staged(together)
    for stage, size in enumerate(one_by_one.epochs, start=1):
        for step in range(size.steps):
            assert spans(other, stage, step) == spans(one_by_one, stage, step)


def test_a_shape_takes_what_memory_allows_and_divides_a_step():
    stage = WindowStageConfig(frames=10, steps=1, frames_per_step=120)
    found = {
        frames: stage_shape(stage, MemoryConfig(frames_per_micro_batch=frames))
        for frames in (None, 1, 10, 39, 50, 120, 10_000)
    }
    per_batch = {frames: shape.windows_per_micro_batch for frames, shape in found.items()}
    assert per_batch == {None: 1, 1: 1, 10: 1, 39: 3, 50: 4, 120: 12, 10_000: 12}
    assert all(each.windows_per_step == 12 for each in found.values())


def test_what_lies_outside_is_refused():
    with pytest.raises(IndexError, match="14 steps"):
        staged().windows(BatchId(1, 14, 0))
    with pytest.raises(UserError, match="longer than every one of 2 chapters"):
        staged(lengths=np.array([40, 94]))


def test_stages_number_their_passes_one_after_the_other():
    windows = staged()
    plan = ChapterWindowPlan(LENGTHS, seed=5)
    first = itertools.accumulate(
        (-(-s.steps // round(s.steps / p)) for s, p in zip(STAGES, windows.passes, strict=True)),
        initial=1,
    )
    for number, (stage, begins) in enumerate(zip(STAGES, first, strict=False), start=1):
        shape = ChapterWindowShape(stage.frames, 1, stage.windows_per_step)
        wanted = plan.windows(shape, BatchId(begins, 0, 0))
        found = windows.windows(BatchId(number, 0, 0))
        assert (found.rows == wanted.rows).all()
        assert (found.start == wanted.start).all()
