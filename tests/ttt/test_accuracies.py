"""Accuracies against scipy's Clopper-Pearson, and where resampling would see no spread."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ttt.statistics.accuracies import (
    accuracy_difference_interval,
    accuracy_interval,
    crossed_accuracy_interval,
)


@pytest.mark.parametrize("n", [5, 8, 40, 1000])
def test_pairs_alone_have_clopper_and_pearsons_interval(n: int) -> None:
    for right in {0, 1, n // 2, n - 1, n}:
        outcomes = [1.0] * right + [0.0] * (n - right)
        theirs = scipy_stats.binomtest(right, n).proportion_ci(method="exact")
        for weighing in ("clusters", "values"):
            ours = accuracy_interval(outcomes, range(n), weighing, "word")
            assert (ours.mean, ours.n) == (right / n, n)
            assert ours.low == pytest.approx(theirs.low, abs=1e-9)
            assert ours.high == pytest.approx(theirs.high, abs=1e-9)


@pytest.mark.parametrize("voices", [1, 2, 4, 40])
@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_words_all_right_or_all_wrong_are_worth_as_many_answers(voices: int, answer: float) -> None:
    words = [word for word in range(8) for _ in range(voices)]
    theirs = scipy_stats.binomtest(8 * int(answer), 8).proportion_ci()
    for weighing in ("clusters", "values"):
        ours = accuracy_interval([answer] * len(words), words, weighing, "word")
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_words_whose_voices_are_independent_are_worth_more_than_words() -> None:
    rng = np.random.default_rng(0)
    words = [word for word in range(100) for _ in range(4)]
    independent = accuracy_interval((rng.random(400) < 0.7).tolist(), words, "clusters", "word")
    same = accuracy_interval(np.repeat(rng.random(100) < 0.7, 4), words, "clusters", "word")
    widths = [each.high - each.low for each in (independent, same)]  # type: ignore[operator]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.15)


def test_uneven_words_count_once_or_by_their_pairs() -> None:
    outcomes, words = [1, 0, 0.5, 1, 0, 0], list("aaabcc")
    assert accuracy_interval(outcomes, words, "clusters", "word").mean == pytest.approx(0.5)
    assert accuracy_interval(outcomes, words, "values", "word").mean == pytest.approx(2.5 / 6)
    few = accuracy_interval(outcomes, words, "values", "word")
    assert (few.low, few.reason, few.n) == (None, "3 words; an interval needs 5", 6)
    assert accuracy_interval([], [], "values", "word").reason == "no values"


def test_what_is_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match="outcomes must lie between 0 and 1"):
        accuracy_interval([2.0], ["a"], "values", "word")
    with pytest.raises(ValueError, match="between -1 and 1"):
        accuracy_difference_interval([-1.5], ["a"], "word")
    with pytest.raises(ValueError, match="2 values but 1 cluster names"):
        accuracy_interval([1.0, 0.0], ["a"], "values", "word")


@pytest.mark.parametrize("change", [-1.0, 0.0, 1.0])
def test_differences_that_are_all_the_same_have_an_interval(change: float) -> None:
    found = accuracy_difference_interval([change] * 8, range(8), "word")
    assert found.mean == change
    assert found.high - found.low > 0.3  # type: ignore[operator]
    assert -1 <= found.low <= change <= found.high <= 1  # type: ignore[operator]


def test_the_other_way_round_a_difference_changes_its_sign_only() -> None:
    rng = np.random.default_rng(1)
    words = [word for word in range(20) for _ in range(3)]
    changes = rng.choice([-1.0, -0.5, 0.0, 0.0, 1.0], 60)
    one = accuracy_difference_interval(changes, words, "word")
    other = accuracy_difference_interval(-changes, words, "word")
    assert (one.mean, one.low, one.high) == pytest.approx(
        (-other.mean, -other.high, -other.low)  # type: ignore[operator]
    )


def test_many_differences_have_the_normal_interval() -> None:
    changes = np.random.default_rng(2).choice([-1.0, 0.0, 1.0], 4000, p=[0.1, 0.7, 0.2])
    found = accuracy_difference_interval(changes, range(4000), "word")
    reach = 1.96 * changes.std() / 4000**0.5
    assert found.low == pytest.approx(changes.mean() - reach, abs=0.1 * reach)
    assert found.high == pytest.approx(changes.mean() + reach, abs=0.1 * reach)


LISTENERS, CLIPS = np.repeat(np.arange(8), 12).tolist(), list(range(12)) * 8
UNITS = ("listener", "clip")


def _width(outcomes: np.ndarray, crossed: bool) -> float:
    values = outcomes.ravel().tolist()
    if crossed:
        found = crossed_accuracy_interval(values, LISTENERS, CLIPS, UNITS)
    else:
        found = accuracy_interval(values, range(len(values)), "values", "answer")
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


def test_crossed_answers_without_tastes_are_worth_more_than_listeners() -> None:
    """Wider than if they were known to have none, and far from what eight answers are worth."""
    rng = np.random.default_rng(0)
    drawn = [(rng.random((8, 12)) < 0.6).astype(float) for _ in range(20)]
    ratio = np.mean([_width(each, True) / _width(each, False) for each in drawn])
    assert 1 < ratio < 1.8
    eight = scipy_stats.binomtest(5, 8).proportion_ci(method="exact")
    assert np.mean([_width(each, True) for each in drawn]) < 0.6 * (eight.high - eight.low)


@pytest.mark.parametrize("by_clip", [False, True])
def test_answers_that_follow_one_of_the_two_are_worth_as_many_as_it(by_clip: bool) -> None:
    size = 12 if by_clip else 8
    tastes = np.arange(size) < size / 2
    outcomes = np.broadcast_to(tastes if by_clip else tastes[:, None], (8, 12)).astype(float)
    theirs = scipy_stats.binomtest(size // 2, size).proportion_ci(method="exact")
    width = _width(outcomes, True)
    assert width == pytest.approx(theirs.high - theirs.low, rel=0.12)


def test_the_order_of_rows_and_columns_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    values = (rng.random(96) < 0.7).astype(float)
    there = rng.random(96) < 0.9
    kept = values[there].tolist()
    rows, columns = (np.array(each)[there].tolist() for each in (LISTENERS, CLIPS))
    found = crossed_accuracy_interval(kept, rows, columns, UNITS)
    other = crossed_accuracy_interval(kept, columns, rows, UNITS[::-1])
    assert (found.low, found.high) == pytest.approx((other.low, other.high))
    assert found.mean == pytest.approx(np.mean(kept))


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_when_all_agree_answers_are_worth_the_fewer_of_the_two(answer: float) -> None:
    found = crossed_accuracy_interval([answer] * 96, LISTENERS, CLIPS, UNITS)
    theirs = scipy_stats.binomtest(8 * int(answer), 8).proportion_ci()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_crossed_intervals_need_five_of_each() -> None:
    found = crossed_accuracy_interval([1.0, 0.0] * 6, [0, 1, 2, 3] * 3, range(12), UNITS)
    assert (found.mean, found.low) == (0.5, None)
    assert found.reason == "4 listeners; an interval needs 5"
    found = crossed_accuracy_interval([1.0, 0.0] * 6, range(12), [0, 1, 2, 3] * 3, UNITS)
    assert found.reason == "4 clips; an interval needs 5"
    assert crossed_accuracy_interval([], [], [], UNITS).reason == "no values"
