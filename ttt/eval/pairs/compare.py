"""Two models, or two settings, on the same pairs: what the difference is, and whether it is chance.

Every comparison is paired: the same pair under both, the same codes. Differences are the second's
minus the first's, so that a positive one means that the second is right more often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ttt.errors import UserError
from ttt.eval.config import PairSummaryConfig, ScoreName
from ttt.eval.pairs.scores import SCORES, Floats, ScoredPairs
from ttt.statistics.accuracies import accuracy_difference_interval
from ttt.statistics.intervals import Interval, clustered_interval
from ttt.statistics.significance import adjust_for_many, cluster_means, paired_test

ByMetric = Mapping[str, ScoredPairs]


def compare_pairs(first: ByMetric, second: ByMetric, config: PairSummaryConfig) -> dict[str, Any]:
    """Metric -> score -> differences of accuracy and of margin, second minus first; for JSON.

    The accuracy is the macro one; intervals are over clusters, and Wilcoxon's test is on their mean
    differences. `p_holm` is adjusted over all metrics. `margin` is in nats. Pairs that only one of
    the two has scored are left out and counted.

    Raises:
        UserError: a metric belongs to one of them only, or a pair's codes differ.
    """
    if alone := sorted(first.keys() ^ second.keys()):
        raise UserError(f"{alone[0]} was scored by one of the two only; compare the same tasks")
    compared = {name: _compare(first[name], second[name], config) for name in sorted(first)}
    for score in SCORES:
        rows = [metric["scores"][score]["accuracy"] for metric in compared.values()]
        adjust_for_many(rows)
    return compared


def _compare(first: ScoredPairs, second: ScoredPairs, config: PairSummaryConfig) -> dict[str, Any]:
    both = set(first.pair_ids) & set(second.pair_ids)
    left_out = len(first.pair_ids) + len(second.pair_ids) - 2 * len(both)
    # Both are in order of their ids, and so is what remains of them.
    first, second = first.only(both), second.only(both)
    codes = zip(first.pair_ids, first.codes_sha256, second.codes_sha256, strict=True)
    if differing := [pair_id for pair_id, theirs, ours in codes if theirs != ours]:
        raise UserError(
            f"{first.task}: {len(differing)} pairs were scored on different codes, the first is "
            f"{differing[0]}; encode both with the same Mimi and audio"
        )
    return {
        "task": first.task,
        "split": first.split,
        "pairs": len(both),
        "clusters": len(set(first.cluster_ids)),
        "left_out": left_out,
        "score": config.score,
        "scores": {score: _differences(first, second, score, config) for score in SCORES},
    }


def _differences(
    first: ScoredPairs, second: ScoredPairs, score: ScoreName, config: PairSummaryConfig
) -> dict[str, Any]:
    outcome = second.outcome(score) - first.outcome(score)
    margin = second.margin(score) - first.margin(score)
    return {
        "accuracy": _accuracy_difference(outcome, first),
        "margin": _margin_difference(margin, first, config),
        "gained": int((outcome > 0).sum()),
        "lost": int((outcome < 0).sum()),
    }


def _accuracy_difference(outcome: Floats, pairs: ScoredPairs) -> dict[str, Any]:
    there = ~np.isnan(outcome)
    clusters = [cluster for cluster, known in zip(pairs.cluster_ids, there, strict=True) if known]
    if not clusters:
        return _NOTHING
    interval = accuracy_difference_interval(outcome[there], clusters, "cluster")
    return {**interval.to_dict(), **_tested(cluster_means(outcome, pairs.cluster_ids)[0])}


def _margin_difference(
    margin: Floats, pairs: ScoredPairs, config: PairSummaryConfig
) -> dict[str, Any]:
    means, names = cluster_means(margin, pairs.cluster_ids)
    if not means:
        return _NOTHING
    interval = clustered_interval(means, names, config.seed, config.resamples, "cluster")
    return {**interval.to_dict(), **_tested(means)}


def _tested(means: Sequence[float]) -> dict[str, float | None]:
    # Means of halves are exact only up to rounding, and the test takes equal sizes for ties.
    return paired_test([round(mean, 12) for mean in means])


_NOTHING = {
    **Interval(None, None, None, 0, "no pair has this score under both").to_dict(),
    **paired_test([]),
}
