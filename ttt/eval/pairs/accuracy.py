"""How often a model finds the right recording the more probable one, with honest intervals.

The accuracy that counts is ZeroSpeech's: the mean over the voices of a word or sentence, then over
words or sentences (`macro`). `micro` is the mean over pairs. The intervals of both know that the
voices of a word or sentence resemble each other, and do not collapse where all are right. `wilson`
takes pairs for independent, as other programs do; it is in no report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ttt.eval.config import PairSummaryConfig, ScoreName
from ttt.eval.pairs.scores import SCORES, ScoredPairs
from ttt.files.walk import natural_key
from ttt.statistics.accuracies import accuracy_interval
from ttt.statistics.intervals import Interval, wilson_interval

LEGACY_TASKS = ("sblimp", "swuggy", "tstory", "sstory")
"""Tasks of the original evaluation, in its order."""


def metric_name(pairs: ScoredPairs) -> str:
    """Task and split: results on dev and on test have different names."""
    return pairs.task if pairs.split == "all" else f"{pairs.task}_{pairs.split}"


def summarize_pairs(pairs: ScoredPairs, config: PairSummaryConfig) -> dict[str, Any]:
    """Accuracy under every score, and of every stratum under the headline's; ready for JSON."""
    strata = {
        name: {
            group: _counted(pairs.only(ids), config.score)
            for group, ids in sorted(groups.items(), key=lambda item: natural_key(item[0]))
        }
        for name, groups in _groups(pairs).items()
    }
    return {
        "task": pairs.task,
        "split": pairs.split,
        "pairs": len(pairs.pair_ids),
        "clusters": len(set(pairs.cluster_ids)),
        "score": config.score,
        "scores": {score: _accuracy(pairs, score) for score in SCORES},
        "strata": strata,
    }


def legacy(metrics: Mapping[str, Mapping[str, Any]], *, strict: bool) -> dict[str, Any]:
    """The original's result keys, from the headline score of one model and setting.

    Accuracies are over pairs, as the original's. What is missing is None, never 0, and an average
    over fewer than the four tasks would be another number, so that it is None too.

    Args:
        metrics: `summarize_pairs` by name.
        strict: count a tie as lost, as the original did; otherwise it is half a pair.
    """
    result: dict[str, Any] = {}
    for task in LEGACY_TASKS:
        of_task = [metric for metric in metrics.values() if metric["task"] == task]
        # The original knew one split: the mean of two would be neither's.
        counted = of_task[0]["scores"][of_task[0]["score"]] if len(of_task) == 1 else None
        samples = counted["pairs"] if counted else None
        correct = counted["right"] + (0 if strict else counted["ties"] / 2) if counted else None
        result[f"{task}_accuracy"] = correct / samples if correct is not None and samples else None
        result[f"{task}_samples"] = samples
        result[f"{task}_correct"] = correct
    accuracies = [result[f"{task}_accuracy"] for task in LEGACY_TASKS]
    whole = None not in accuracies
    result["paper_metrics_avg"] = float(np.mean(accuracies)) if whole else None
    result["paper_metrics_f1"] = _harmonic_mean(accuracies) if whole else None
    return result


def _groups(pairs: ScoredPairs) -> dict[str, dict[str, list[str]]]:
    """Stratum -> group -> pair ids."""
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for pair_id, strata in zip(pairs.pair_ids, pairs.strata, strict=True):
        for name, group in strata.items():
            groups[name][group].append(pair_id)
    return groups


def _accuracy(pairs: ScoredPairs, score: ScoreName) -> dict[str, dict[str, Any] | int]:
    outcome = pairs.outcome(score)
    there = ~np.isnan(outcome)
    of_pairs = outcome[there]
    clusters = [cluster for cluster, known in zip(pairs.cluster_ids, there, strict=True) if known]
    counted = _counted(pairs, score)
    if not len(of_pairs):
        nothing = Interval(None, None, None, 0, _NO_PAIR)
        return {**counted, "micro": nothing.to_dict(), "wilson": nothing.to_dict()}
    micro = accuracy_interval(of_pairs, clusters, "values", "cluster")
    if counted["ties"]:
        reason = "ties are neither right nor wrong"
        wilson = Interval(micro.mean, None, None, micro.n, reason)
    else:
        wilson = wilson_interval(counted["right"], counted["pairs"])
    return {**counted, "micro": micro.to_dict(), "wilson": wilson.to_dict()}


_NO_PAIR = "no pair has this score"


def _counted(pairs: ScoredPairs, score: ScoreName) -> dict[str, Any]:
    """The macro accuracy and what it is made of."""
    outcome = pairs.outcome(score)
    there = ~np.isnan(outcome)
    clusters = [cluster for cluster, known in zip(pairs.cluster_ids, there, strict=True) if known]
    macro = Interval(None, None, None, 0, _NO_PAIR)
    if clusters:
        macro = accuracy_interval(outcome[there], clusters, "clusters", "cluster")
    return {
        "macro": macro.to_dict(),
        "pairs": int(there.sum()),
        "clusters": len(set(clusters)),
        "right": int((outcome == 1).sum()),
        "ties": int((outcome == 0.5).sum()),
        "near_ties": pairs.near_ties(score),
    }


def _harmonic_mean(accuracies: Sequence[float]) -> float:
    if 0 in accuracies:
        return 0.0  # Its limit.
    return len(accuracies) / sum(1 / accuracy for accuracy in accuracies)
