import numpy as np
import pytest

from tests.code_caches import GEOMETRY
from ttt.errors import UserError
from ttt.snac.train.window_places import ClipPlaces, Windows
from ttt.snac.train.windows import WindowPlan, WindowShape, validation_windows
from ttt.training.micro_batches import BatchId, rank_micro_batches

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


def _epoch(plan: WindowPlan, epoch: int, shape: WindowShape = SHAPE) -> list[Windows]:
    return [
        plan.windows(shape, BatchId(epoch, step, micro))
        for step in range(plan.steps(shape))
        for micro in range(shape.micro_batches_per_step)
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


# -- as many windows of a clip as fit --------------------------------------------------------------


def _heard(
    plan: WindowPlan, n_coarse: list[int], epoch: int, shape: WindowShape
) -> list[np.ndarray]:
    """How often an epoch hears each coarsest token of each clip."""
    heard = [np.zeros(n, int) for n in n_coarse]
    for windows in _epoch(plan, epoch, shape):
        for row, start, core in zip(
            windows.rows, windows.slice_start, windows.core_start, strict=True
        ):
            heard[row][start + core : start + core + shape.core_coarse] += 1
    return heard


LENGTHS = {
    "speech": np.random.default_rng(0).integers(10, 120, 40).tolist(),
    "three recordings of 93 s": [1090, 1091, 1092],
    "multiples of the core": [12, 24, 36, 48] * 8,
    "one less than a multiple": [11, 23, 35, 47] * 8,
    "shorter than a core": [1, 2, 3, 4, 5] * 8,
    "one long among short": [3] * 20 + [999],
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("core_coarse", [2, 6, 12, 47])
@pytest.mark.parametrize(("clips", "micro_batches"), [(4, 2), (7, 1)])
@pytest.mark.parametrize("seed", [1, 2])
def test_an_epoch_hears_everything_once_but_the_ends(
    lengths: list[int], core_coarse: int, clips: int, micro_batches: int, seed: int
) -> None:
    """Away from a clip's ends exactly once; at both together less than a core is not heard.

    The windows left over after the last step are fewer than a step's.
    """
    shape = WindowShape(core_coarse, 2, clips, micro_batches, "length")
    plan = _plan(lengths, seed=seed)
    for epoch in (1, 9):
        heard = _heard(plan, lengths, epoch, shape)
        whole = WindowShape(core_coarse, 2, plan.count(shape), 1, "length")
        wanted = _heard(plan, lengths, epoch, whole)  # in a single step nothing is left over
        for n, times in zip(lengths, wanted, strict=True):
            assert (times <= 1).all()
            assert (times[core_coarse:-core_coarse] == 1).all()
            assert n - times.sum() < core_coarse
            (edges,) = np.nonzero(np.diff(np.concatenate([[0], times, [0]])))
            assert len(edges) == 2, "what is heard is one piece"
        windows_left = plan.count(shape) - plan.steps(shape) * shape.clips_per_step
        assert 0 <= windows_left < shape.clips_per_step
        missing = sum(int((a - b).sum()) for a, b in zip(wanted, heard, strict=True))
        assert all((b <= a).all() for a, b in zip(wanted, heard, strict=True))
        assert missing <= windows_left * core_coarse


def test_the_ends_and_the_left_over_windows_are_others_in_the_next_epoch() -> None:
    lengths = [20] * 30 + [400]
    shape = WindowShape(6, 2, 4, 4, "length")
    plan = _plan(lengths)
    heard = [np.concatenate(_heard(plan, lengths, epoch, shape)) for epoch in range(1, 31)]
    assert (np.sum(heard, axis=0) > 0).all(), "over the epochs all is heard"
    assert not np.array_equal(heard[0], heard[1])


def test_the_plan_of_all_windows_is_pure() -> None:
    """Any order of asking, any plan object, any other shape between: the same windows."""
    lengths = list(range(3, 103))
    shape, other = WindowShape(6, 2, 4, 4, "length"), WindowShape(12, 2, 4, 4, "length")
    forward = _epoch(_plan(lengths), 3, shape)
    asked_backward = _plan(lengths)
    for step in reversed(range(asked_backward.steps(shape))):
        for micro in reversed(range(4)):
            asked_backward.windows(other, BatchId(2, 0, micro))
            again = asked_backward.windows(shape, BatchId(3, step, micro))
            assert _same(forward[step * 4 + micro], again)
    assert not _same(forward[0], _epoch(_plan(lengths, seed=2), 3, shape)[0])
    assert not _same(forward[0], _epoch(_plan(lengths), 4, shape)[0])


def test_steps_do_not_depend_on_the_epoch_and_one_window_is_as_it_was() -> None:
    plan = _plan([40, 41, 47, 3] * 8)
    assert plan.count(WindowShape(6, 2, 4, 4, "length")) == 8 * (6 + 6 + 7 + 1)
    assert plan.steps(WindowShape(6, 2, 4, 4, "length")) == 10
    # Where one window fits, both ways draw its place alike.
    plan = _plan([11] * 40)
    by_length = _heard(plan, [11] * 40, 5, WindowShape(6, 2, 40, 1, "length"))
    single = _heard(plan, [11] * 40, 5, WindowShape(6, 2, 40, 1))
    assert np.array_equal(by_length, single)
    first = _plan([30, 31, 32, 33] * 8, seed=4).windows(SHAPE, BatchId(2, 1, 3))
    # Drawn by commit 8b30563.
    assert first.rows.tolist() == [27, 12, 28, 21]
    assert (first.slice_start + first.core_start).tolist() == [17, 21, 0, 18]


def test_a_plan_of_some_rows_hears_all_of_them() -> None:
    rows = np.arange(1, 60, 3)
    lengths = np.random.default_rng(1).integers(6, 60, 60).tolist()
    plan = _plan(lengths, rows=rows)
    shape = WindowShape(6, 2, plan.count(WindowShape(6, 2, 1, 1, "length")), 1, "length")
    for row, times in enumerate(_heard(plan, lengths, 1, shape)):
        assert times.sum() == (6 * (lengths[row] // 6) if row in rows else 0)


def test_heard_samples_are_those_of_the_windows() -> None:
    """Short clips, padding and left-over windows included, for both ways."""
    lengths = [1, 3, 5, 7, 9, 11, 30, 57, 200] * 5
    for shape in (SHAPE, WindowShape(6, 2, 4, 4, "length"), WindowShape(11, 1, 3, 2, "length")):
        plan = _plan(lengths, missing=700)
        assert plan.audio_samples() == sum(4096 * n - 700 for n in lengths)
        for epoch in (1, 2):
            counted = sum(w.valid_samples.sum() for w in _epoch(plan, epoch, shape))
            assert plan.heard_samples(shape, epoch) == counted


def test_the_windows_of_a_damaged_clip_are_replaced_by_different_ones() -> None:
    plan = _plan([600, 500, 500])
    batch = BatchId(3, 0, 0)
    assert _same(
        next(plan.replacements(0, batch, 6, 10)), next(plan.replacements(0, batch, 6, 10, nth=0))
    )
    used = [next(plan.replacements(0, batch, 6, 10, nth=nth)) for nth in range(100)]
    assert {int(w.rows[0]) for w in used} == {1, 2}
    places = {(int(w.rows[0]), int(w.slice_start[0] + w.core_start[0])) for w in used}
    assert len(places) > 60
    unplanned = [next(plan.replacements(0, None, 6, 10, nth=nth)) for nth in (0, 5)]
    assert _same(*unplanned), "validation replaces as it always did"


def test_too_few_windows_for_a_step_say_so() -> None:
    said = r"15 windows of 0\.51 s in 3 clips are fewer than the 16 of one step"
    with pytest.raises(UserError, match=said):
        _plan([35] * 3).steps(WindowShape(6, 2, 4, 4, "length"))


def test_a_batch_outside_the_epoch_is_an_error() -> None:
    with pytest.raises(IndexError, match="not in the plan of 1 steps"):
        _plan([20] * 16).windows(SHAPE, BatchId(1, 1, 0))


def _validation(lengths: list[int], max_windows: int) -> list[Windows]:
    n_coarse = np.array(lengths, np.int32)
    n_samples = (n_coarse * 4096).astype(np.int32)
    clips = ClipPlaces(n_coarse, n_samples, GEOMETRY, REACH)
    return validation_windows(clips, 6, 2, 4, max_windows)


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
