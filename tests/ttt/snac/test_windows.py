import numpy as np
import pytest

from tests.code_caches import GEOMETRY
from ttt.errors import UserError
from ttt.snac.windows import (
    BatchId,
    WindowPlan,
    Windows,
    WindowShape,
    rank_micro_batches,
    validation_windows,
)

REACH = 9000  # a little more than two coarsest tokens of 4,096 samples
SHAPE = WindowShape(
    core_coarse=6, context_coarse=2, clips_per_micro_batch=4, micro_batches_per_step=4
)


def _plan(
    n_coarse: list[int], missing: int = 0, seed: int = 1, rows: np.ndarray | None = None
) -> WindowPlan:
    lengths = np.array(n_coarse, np.int32)
    samples = (lengths * 4096 - missing).astype(np.int32)
    return WindowPlan(lengths, samples, GEOMETRY, REACH, seed, rows)


def _epoch(plan: WindowPlan, epoch: int) -> list[Windows]:
    return [
        plan.windows(SHAPE, BatchId(epoch, step, micro))
        for step in range(plan.steps(SHAPE))
        for micro in range(SHAPE.micro_batches_per_step)
    ]


def _same(a: Windows, b: Windows) -> bool:
    names = ("rows", "slice_start", "core_start", "valid_samples")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def test_an_epoch_visits_every_clip_at_most_once_and_other_ones_next_time() -> None:
    plan = _plan([40] * 70)
    rows = np.concatenate([windows.rows for windows in _epoch(plan, 1)])
    assert len(rows) == 64
    assert len(set(rows.tolist())) == 64
    later = np.concatenate([windows.rows for windows in _epoch(plan, 2)])
    assert rows.tolist() != later.tolist()
    assert set(range(70)) - set(rows.tolist()) != set(range(70)) - set(later.tolist())


def test_the_plan_is_pure() -> None:
    """Any order of asking, any plan object: the same windows; another seed: others."""
    lengths = list(range(3, 103))
    forward = _epoch(_plan(lengths), 3)
    asked_backward = _plan(lengths)
    _epoch(asked_backward, 7)
    for step in reversed(range(asked_backward.steps(SHAPE))):
        for micro in reversed(range(4)):
            again = asked_backward.windows(SHAPE, BatchId(3, step, micro))
            assert _same(forward[step * 4 + micro], again)
    assert not _same(forward[0], _epoch(_plan(lengths, seed=2), 3)[0])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_number_of_workers_sees_the_same_windows_in_the_same_steps(world_size: int) -> None:
    plan = _plan([30] * 64)
    for step in range(plan.steps(SHAPE)):
        shared_out = [
            micro
            for rank in range(world_size)
            for micro in rank_micro_batches(rank, world_size, SHAPE.micro_batches_per_step)
        ]
        assert sorted(shared_out) == list(range(4)), f"step {step}"


def test_workers_that_do_not_divide_a_step_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4 micro-batches per step .* by 3 workers"):
        rank_micro_batches(0, 3, 4)


def test_every_slice_holds_its_core_and_all_context_the_clip_has() -> None:
    lengths = [10, 11, 13, 20, 57] * 16
    for epoch in range(1, 9):
        for windows in _epoch(_plan(lengths), epoch):
            n = np.array(lengths)[windows.rows]
            core_at = windows.slice_start + windows.core_start
            assert windows.slice_coarse == 10
            assert windows.core_coarse == 6
            assert (windows.slice_start >= 0).all()
            assert (windows.slice_start + 10 <= n).all()
            assert (core_at >= 0).all()
            assert (core_at + 6 <= n).all()
            left, right = windows.core_start, 10 - 6 - windows.core_start
            assert ((left >= 2) | (windows.slice_start == 0)).all()
            assert ((right >= 2) | (windows.slice_start + 10 == n)).all()
            assert (windows.valid_samples == 6 * 4096).all()


def test_starts_are_spread_over_the_whole_room() -> None:
    plan = _plan([12] * 64)
    starts = [
        (windows.slice_start + windows.core_start).tolist()
        for epoch in range(1, 11)
        for windows in _epoch(plan, epoch)
    ]
    counts = np.bincount(np.concatenate(starts), minlength=7)
    # 640 draws over 7 starts: the expected 91 with a standard deviation of 9.
    assert len(counts) == 7
    assert counts.min() > 50
    assert counts.max() < 140


@pytest.mark.parametrize(
    ("n_coarse", "missing", "valid"),
    [
        (1, 0, 0),  # the padding reaches all of it
        (5, 0, 5 * 4096 - REACH),
        (5, 15_000, 5 * 4096 - 15_000),  # the real end comes before the padding's reach
        (6, 0, 6 * 4096 - REACH),
    ],
)
def test_what_padding_can_reach_is_masked(n_coarse: int, missing: int, valid: int) -> None:
    plan = _plan([n_coarse] * 16, missing)
    for windows in _epoch(plan, 1):
        assert (windows.slice_start == 0).all()
        assert (windows.core_start == 0).all()
        assert (windows.valid_samples == valid).all()


def test_what_is_past_the_real_samples_is_masked() -> None:
    for windows in _epoch(_plan([10] * 16, missing=5000), 1):
        core_end = GEOMETRY.samples_48k(windows.slice_start + windows.core_start + 6)
        masked = np.maximum(core_end - (10 * 4096 - 5000), 0)
        assert np.array_equal(windows.valid_samples, 6 * 4096 - masked)


def test_a_plan_may_draw_from_some_rows_only() -> None:
    rows = np.arange(100, 200, 3)
    plan = _plan([20] * 300, rows=rows)
    drawn = np.concatenate([windows.rows for windows in _epoch(plan, 1)])
    assert len(drawn) == 32
    assert set(drawn.tolist()) <= set(rows.tolist())
    others = [w.rows[0] for w in plan.replacements(103, BatchId(1, 0, 0), 6, 10)]
    assert set(others) <= set(rows.tolist()) - {103}
    assert len(set(others)) > 20


def test_too_few_clips_for_a_step_say_so() -> None:
    with pytest.raises(UserError, match="15 clips are fewer than the 16 of one step"):
        _plan([20] * 15).steps(SHAPE)


def test_a_batch_outside_the_epoch_is_an_error() -> None:
    with pytest.raises(IndexError, match="not in the plan of 1 steps"):
        _plan([20] * 16).windows(SHAPE, BatchId(1, 1, 0))


def _validation(lengths: list[int], max_windows: int) -> list[Windows]:
    n_coarse = np.array(lengths, np.int32)
    n_samples = (n_coarse * 4096).astype(np.int32)
    return validation_windows(n_coarse, n_samples, GEOMETRY, REACH, 6, 2, 4, max_windows)


def test_validation_takes_every_window_when_there_are_few() -> None:
    batches = _validation([12, 18, 7], max_windows=100)
    found = [
        (int(row), int(start + core))
        for windows in batches
        for row, start, core in zip(
            windows.rows, windows.slice_start, windows.core_start, strict=True
        )
    ]
    assert found == [(0, 0), (0, 6), (1, 0), (1, 6), (1, 12), (2, 0)]
    assert [len(windows) for windows in batches] == [4, 2]


def test_validation_windows_are_spread_over_all_clips() -> None:
    rows = np.concatenate([windows.rows for windows in _validation([60] * 50, 25)])
    assert rows.tolist() == list(range(1, 50, 2))


def test_validation_leaves_out_clips_without_a_valid_sample() -> None:
    rows = np.concatenate([windows.rows for windows in _validation([1, 20, 2], 10)])
    assert set(rows.tolist()) == {1}
    with pytest.raises(UserError, match="none of 2 clips is long enough"):
        _validation([1, 2], 10)
