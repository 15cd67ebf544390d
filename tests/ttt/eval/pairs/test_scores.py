"""Scores by their formula; oracles; what is broken never wins."""

import dataclasses
import math

import numpy as np
import pytest

from tests.ttt.eval.scored_pairs import Loss, item, made_pairs, noisy, records
from ttt.errors import UserError
from ttt.eval.pairs.find import Pair, Role
from ttt.eval.pairs.records import ItemRecord
from ttt.eval.pairs.scores import SCORES, ScoredPairs, scored_pairs

PAIRS = made_pairs(clusters=9).pairs
MEANS = ("weighted_mean", "semantic_mean", "acoustic_mean", "ending_weighted_mean")


def _one(found: list[ItemRecord]) -> ScoredPairs:
    (pairs,), missing = scored_pairs(found)
    assert not missing
    return pairs


def _oracle(pair: Pair, role: Role) -> float:
    return 2.0 if role == "positive" else 2.5


def _inverted(pair: Pair, role: Role) -> float:
    return 4.5 - _oracle(pair, role)


@pytest.mark.parametrize("loss, accuracy", [(_oracle, 1), (_inverted, 0)])
def test_an_oracle_is_always_right_and_its_opposite_never(loss: Loss, accuracy: int) -> None:
    pairs = _one(records(PAIRS, loss))
    for score in MEANS:
        assert (pairs.outcome(score) == accuracy).all()


@pytest.mark.parametrize("nats", [math.log(2048), 1 / 3, 7.1, 0.0])
def test_a_constant_is_exactly_half_whatever_the_lengths(nats: float) -> None:
    # 20 frames against 23: quotients of rounded sums, which are not always bit-equal.
    pairs = _one(records(PAIRS, lambda pair, role: nats))
    for score in MEANS:
        assert pairs.outcome(score).tolist() == [0.5] * len(PAIRS)
        assert pairs.near_ties(score) == 0
    assert (pairs.outcome("weighted_sum") == (1 if nats else 0.5)).all()  # The shorter one.


def test_every_score_by_its_formula() -> None:
    rng = np.random.default_rng(0)
    found = []
    for record in records(PAIRS, noisy(0)):
        sums, counts = rng.uniform(20, 90, 8), rng.integers(15, 23, 8)
        found.append(
            dataclasses.replace(
                record,
                nll_sum=tuple(sums),
                n_cb=tuple(counts),
                ending_first_frame=int(counts.min()) - 2,
                ending_sum=tuple(sums / 5),
            )
        )
    pairs = _one(found)
    weights = np.array([100] + [1] * 7)
    for row, side in ((3, 0), (7, 1)):
        of_pair = [record for record in found if record.pair_id == pairs.pair_ids[row]]
        record = of_pair[side]  # The positive recording comes first.
        sums, counts = np.array(record.nll_sum), np.array(record.n_cb)
        ending = counts - record.ending_first_frame
        expected = {
            "weighted_mean": (weights * sums).sum() / (weights * counts).sum(),
            "semantic_mean": sums[0] / counts[0],
            "acoustic_mean": sums[1:].sum() / counts[1:].sum(),
            "weighted_sum": (weights * sums).sum() / 107,
            "semantic_sum": sums[0],
            "acoustic_sum": sums[1:].sum() / 7,
            "ending_weighted_mean": (weights * sums / 5).sum() / (weights * ending).sum(),
        }
        for score in SCORES:
            assert pairs.losses[score][row, side] == pytest.approx(expected[score], rel=1e-12)


def test_codebook_0_has_100_shares_of_107() -> None:
    record = item(PAIRS[0], "positive", 1.0)
    more = dataclasses.replace(record, nll_sum=(record.nll_sum[0] + 20, *record.nll_sum[1:]))  # type: ignore[index]
    other = item(PAIRS[0], "negative", 1.0)
    before, after = (_one([r, other]).losses["weighted_mean"][0, 0] for r in (record, more))
    assert after - before == pytest.approx(100 / 107)  # 20 nats in 20 frames


def test_swapped_files_mirror_every_outcome() -> None:
    found = [*records(PAIRS[1:], noisy(3)), *records(PAIRS[:1], lambda pair, role: 1.0)]
    swapped = [
        dataclasses.replace(r, role="negative" if r.role == "positive" else "positive")
        for r in found
    ]
    for score in SCORES:
        assert (_one(swapped).outcome(score) == 1 - _one(found).outcome(score)).all()
        assert (_one(swapped).margin(score) == -_one(found).margin(score)).all()


def test_the_order_of_records_means_nothing() -> None:
    found = records(PAIRS, noisy(3))
    shuffled = [found[k] for k in np.random.default_rng(0).permutation(len(found))]
    one, other = _one(found), _one(shuffled)
    assert one.pair_ids == other.pair_ids
    assert all((one.losses[score] == other.losses[score]).all() for score in SCORES)


@pytest.mark.parametrize("broken", ["positive", "negative"])
def test_a_broken_recording_never_wins_and_is_named(broken: Role) -> None:
    pair = PAIRS[0]
    for bad in (
        item(pair, broken, None),
        item(pair, broken, math.nan),
        item(pair, broken, math.inf),
        item(pair, broken, -math.inf),
    ):
        good = item(pair, "negative" if broken == "positive" else "positive", 3.0)
        whole, missing = scored_pairs([bad, good])
        assert whole == []
        assert [each.pair_id for each in missing] == [pair.pair_id]
        assert bad.item_id in missing[0].reason
    whole, missing = scored_pairs([item(pair, broken, 1.0)])
    assert whole == []
    assert "its partner has no record" in missing[0].reason


def test_near_ties_are_counted_and_decided() -> None:
    pairs = _one(records(PAIRS, lambda p, role: 3 + (4e-7 if role == "negative" else 0)))
    assert (pairs.outcome("weighted_mean") == 1).all()
    assert pairs.near_ties("weighted_mean") == len(PAIRS)
    pairs = _one(records(PAIRS, lambda p, role: 3 + (4e-6 if role == "negative" else 0)))
    assert pairs.near_ties("weighted_mean") == 0


def test_the_ending_alone_decides_where_the_beginning_is_shared() -> None:
    # Equal losses before frame 15 only dilute the mean.
    positive, negative = item(PAIRS[0], "positive", 3.0), item(PAIRS[0], "negative", 3.0)
    negative = dataclasses.replace(
        negative, ending_sum=(3.5 * 8,) * 8, nll_sum=(3 * 15 + 3.5 * 8,) * 8
    )
    pairs = _one([positive, negative])
    assert pairs.margin("ending_weighted_mean")[0] == pytest.approx(0.5)
    assert pairs.margin("weighted_mean")[0] == pytest.approx(0.5 * 8 / 23)


def test_a_recording_that_ends_before_the_difference_has_no_ending_score() -> None:
    positive = dataclasses.replace(
        item(PAIRS[0], "positive", 3.0), ending_first_frame=20, ending_sum=(0.0,) * 8
    )
    pairs = _one([positive, item(PAIRS[0], "negative", 3.0)])
    assert np.isnan(pairs.outcome("ending_weighted_mean")).all()
    assert pairs.outcome("weighted_mean").tolist() == [0.5]
    without = dataclasses.replace(positive, ending_first_frame=None, ending_sum=None)
    assert np.isnan(
        _one([without, item(PAIRS[0], "negative", 3.0)]).outcome("ending_weighted_mean")
    ).all()


def test_a_recording_counted_twice_is_refused() -> None:
    found = records(PAIRS, noisy(0))
    with pytest.raises(UserError, match="two records of the same recording"):
        scored_pairs([*found, found[3]])
