"""Paired comparison: nothing from nothing, a planted difference found, different inputs refused."""

import dataclasses

import numpy as np
import pytest
from scipy import stats as scipy_stats

from tests.ttt.eval.scored_pairs import Loss, made_pairs, noisy, records
from ttt.errors import UserError
from ttt.eval.config import PairSummaryConfig
from ttt.eval.pairs.compare import compare_pairs
from ttt.eval.pairs.find import Pair, Role
from ttt.eval.pairs.scores import ScoredPairs, scored_pairs

CONFIG = PairSummaryConfig(resamples=400)
PAIRS = made_pairs(clusters=40).pairs


def _scored(loss: Loss) -> dict[str, ScoredPairs]:
    (pairs,), _ = scored_pairs(records(PAIRS, loss))
    return {"swuggy_dev": pairs}


def _better(gain: float) -> Loss:
    """As `noisy(0)`, with `gain` nats less for every positive recording."""

    def loss(pair: Pair, role: Role) -> float:
        return noisy(0)(pair, role) - gain * (role == "positive")  # type: ignore[operator]

    return loss


def test_a_model_against_itself() -> None:
    scored = _scored(noisy(0))
    for row in compare_pairs(scored, scored, CONFIG)["swuggy_dev"]["scores"].values():
        for name in ("accuracy", "margin"):
            assert row[name]["mean"] == 0
            assert row[name]["p_wilcoxon"] == row[name]["p_least"] == 1
        # No pair changed sides, which does not say that none ever would.
        assert 0.05 < row["accuracy"]["high"] == -row["accuracy"]["low"] < 0.2
        assert row["margin"]["low"] == row["margin"]["high"] == 0
        assert row["accuracy"]["p_holm"] == 1
        assert row["gained"] == row["lost"] == 0


def test_a_planted_difference_is_found_because_it_is_paired() -> None:
    # Recordings scatter by 1 nat; the second model is better by 0.8 in each pair.
    first, second = _scored(noisy(0)), _scored(_better(0.8))
    compared = compare_pairs(first, second, CONFIG)["swuggy_dev"]
    row = compared["scores"]["weighted_mean"]
    assert row["margin"]["mean"] == pytest.approx(0.8)
    assert row["margin"]["low"] == pytest.approx(0.8)
    assert row["lost"] == 0
    assert row["gained"] > 0
    ours, theirs = first["swuggy_dev"], second["swuggy_dev"]
    difference = theirs.outcome("weighted_mean") - ours.outcome("weighted_mean")
    by_word = [
        difference[[c == cluster for c in ours.cluster_ids]].mean()
        for cluster in dict.fromkeys(ours.cluster_ids)
    ]
    assert row["accuracy"]["mean"] == pytest.approx(np.mean(by_word))
    assert row["accuracy"]["low"] > 0
    assert row["accuracy"]["p_wilcoxon"] == pytest.approx(2 / 2 ** np.count_nonzero(by_word))
    back = compare_pairs(second, first, CONFIG)["swuggy_dev"]["scores"]["weighted_mean"]
    assert back["accuracy"]["mean"] == -row["accuracy"]["mean"]
    assert back["lost"] == row["gained"]


def test_several_metrics_are_adjusted_together() -> None:
    first, second = _scored(noisy(0)), _scored(noisy(5))
    names = ("a", "b", "c")
    compared = compare_pairs(
        dict.fromkeys(names, first["swuggy_dev"]),
        dict.fromkeys(names, second["swuggy_dev"]),
        CONFIG,
    )
    rows = [compared[name]["scores"]["weighted_mean"]["accuracy"] for name in names]
    assert all(row["p_holm"] == min(1, 3 * row["p_wilcoxon"]) for row in rows)


def test_differences_of_nothing_are_significant_as_seldom_as_promised() -> None:
    p = [
        compare_pairs(
            _scored(noisy(2 * k)), _scored(noisy(2 * k + 1)), PairSummaryConfig(resamples=1)
        )["swuggy_dev"]["scores"]["weighted_mean"]["accuracy"]["p_wilcoxon"]
        for k in range(20)
    ]
    assert scipy_stats.binomtest(sum(each < 0.05 for each in p), 20, 0.05).pvalue > 0.01


def test_pairs_that_only_one_side_has_are_left_out_and_counted() -> None:
    first = _scored(noisy(0))
    fewer = {"swuggy_dev": first["swuggy_dev"].only(first["swuggy_dev"].pair_ids[3:])}
    compared = compare_pairs(first, fewer, CONFIG)["swuggy_dev"]
    assert compared["left_out"] == 3
    assert compared["pairs"] == len(PAIRS) - 3
    assert compared["scores"]["weighted_mean"]["accuracy"]["mean"] == 0


def test_other_metrics_and_other_codes_are_refused() -> None:
    scored = _scored(noisy(0))
    with pytest.raises(UserError, match="sblimp_dev was scored by one of the two only"):
        compare_pairs(scored, {**scored, "sblimp_dev": scored["swuggy_dev"]}, CONFIG)
    pairs = scored["swuggy_dev"]
    codes = (("other", "codes"), *pairs.codes_sha256[1:])
    other = {"swuggy_dev": dataclasses.replace(pairs, codes_sha256=codes)}
    with pytest.raises(
        UserError, match=r"swuggy: 1 pairs .* different codes, the first is dev/0/A"
    ):
        compare_pairs(scored, other, CONFIG)


def test_few_clusters_have_neither_interval_nor_p() -> None:
    pairs = _scored(noisy(0))["swuggy_dev"]
    few = {"swuggy_dev": pairs.only(p for p in pairs.pair_ids if p.split("/")[1] in {*"1234"})}
    row = compare_pairs(few, few, CONFIG)["swuggy_dev"]["scores"]["weighted_mean"]["accuracy"]
    assert row["low"] is row["p_wilcoxon"] is row["p_holm"] is None
    assert row["reason"] == "4 clusters; an interval needs 5"
