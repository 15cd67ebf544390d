"""Accuracies: the official ones from records, by hand, with intervals that keep their promise."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from tests.ttt.eval.scored_pairs import item, made_pairs, noisy, records
from ttt.eval.config import PairSummaryConfig
from ttt.eval.pairs.accuracy import legacy, metric_name, summarize_pairs
from ttt.eval.pairs.find import Pair, Role, Utterance
from ttt.eval.pairs.records import ItemRecord
from ttt.eval.pairs.scores import ScoredPairs, scored_pairs
from ttt.eval.pairs.zerospeech import PAIR_KEYS, frequency_band
from ttt.statistics.accuracies import accuracy_interval
from ttt.statistics.intervals import wilson_interval

CONFIG = PairSummaryConfig(resamples=300)


def _scored(found: list[ItemRecord]) -> ScoredPairs:
    return scored_pairs(found)[0][0]


def _outcomes(table: dict[tuple[int, str], float], **strata: str) -> ScoredPairs:
    """(cluster, voice) -> 1 right, 0.5 tied, 0 wrong."""
    pairs = [
        Pair("swuggy", "dev", f"{cluster}{voice}", str(cluster), voice,
             Utterance(f"{cluster}{voice}1", Path("a")), Utterance(f"{cluster}{voice}0", Path("b")),
             strata)
        for cluster, voice in table
    ]  # fmt: skip
    outcome = dict(zip((pair.pair_id for pair in pairs), table.values(), strict=True))

    def loss(pair: Pair, role: Role) -> float:
        return 3 + (role == "negative") * (outcome[pair.pair_id] - 0.5)

    return _scored(records(pairs, loss))


def _accuracy_of(pairs: ScoredPairs) -> dict[str, dict[str, float]]:
    return summarize_pairs(pairs, CONFIG)["scores"]["weighted_mean"]


def test_voices_then_words_and_pairs_alone() -> None:
    table = {(0, "A"): 1, (0, "B"): 0, (0, "C"): 0.5, (1, "A"): 1, (2, "A"): 0, (2, "B"): 0}
    counted = summarize_pairs(_outcomes(table), CONFIG)["scores"]["weighted_mean"]
    assert counted["macro"]["mean"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert counted["micro"]["mean"] == pytest.approx(2.5 / 6)
    assert [counted[key] for key in ("pairs", "clusters", "right", "ties")] == [6, 3, 2, 1]
    assert counted["macro"]["low"] is None
    assert counted["macro"]["reason"] == "3 clusters; an interval needs 5"
    assert counted["wilson"]["low"] is None
    assert counted["wilson"]["reason"] == "ties are neither right nor wrong"


def test_wilsons_interval_is_scipys_where_nothing_is_tied() -> None:
    pairs = _outcomes({(k, "A"): float(k % 4 != 0) for k in range(40)})
    counted = summarize_pairs(pairs, CONFIG)["scores"]["weighted_mean"]
    theirs = scipy_stats.binomtest(30, 40).proportion_ci(method="wilson")
    assert counted["wilson"]["low"] == pytest.approx(theirs.low, abs=1e-12)
    assert counted["wilson"]["high"] == pytest.approx(theirs.high, abs=1e-12)
    # One pair per cluster: pairs are independent, and both intervals mean the same.
    assert counted["macro"]["low"] == pytest.approx(theirs.low, abs=0.04)
    assert counted["macro"]["high"] == pytest.approx(theirs.high, abs=0.04)


def test_voices_that_say_the_same_add_no_certainty() -> None:
    once = {(k, "A"): float(k % 4 != 0) for k in range(40)}
    often = {(k, voice): right for (k, _), right in once.items() for voice in "ABCD"}
    alone, repeated = (_accuracy_of(_outcomes(table)) for table in (once, often))
    for name in ("macro", "micro"):
        for edge in ("mean", "low", "high"):
            assert repeated[name][edge] == pytest.approx(alone["macro"][edge], abs=1e-12)
    # Wilson's takes them for four times as many words.
    width = [counted["wilson"]["high"] - counted["wilson"]["low"] for counted in (alone, repeated)]
    assert width[1] == pytest.approx(width[0] / 2, rel=0.05)


@pytest.mark.parametrize("benchmark, task", [("lexical", "swuggy"), ("syntactic", "sblimp")])
def test_summaries_of_records_are_the_official_scores(benchmark: str, task: str) -> None:
    golden = Path(__file__).resolve().parents[5] / "shared" / "golden" / "zerospeech"
    if not golden.is_dir():
        pytest.skip("the official scripts' tables (../shared/golden/zerospeech) are not here")
    lines = (golden / f"{benchmark}_scores.txt").read_text().splitlines()
    score = {name: float(text) for name, text in (line.split() for line in lines)}
    with open(golden / f"{benchmark}_gold.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row in np.random.default_rng(0).permutation(np.array(rows)):
        key = [row[column] for column in PAIR_KEYS[benchmark]]
        role: Role = "positive" if row["correct"] == "1" else "negative"
        strata = {k: row[k] for k in ("length", "type") if k in row}
        if "frequency" in row:
            strata["frequency"] = frequency_band(int(row["frequency"]))
        name = Utterance(row["filename"], Path("none"))
        pair = Pair(
            task, "dev", "/".join(key), "/".join(key[:-1]), row["voice"], name, name, strata
        )
        found.append(item(pair, role, -score[row["filename"]]))
    summary = summarize_pairs(_scored(found), CONFIG)
    expected = json.loads((golden / "expected.json").read_text())[benchmark]
    headline = summary["scores"]["weighted_mean"]
    assert headline["macro"]["mean"] == pytest.approx(expected, abs=1e-12)
    assert headline["macro"]["low"] < expected < headline["macro"]["high"]
    assert headline["ties"] > 0
    for stratum in summary["strata"]:
        with open(golden / f"{benchmark}_by_{stratum}.csv", newline="") as file:
            official = list(csv.DictReader(file))
        assert summary["strata"][stratum].keys() == {row[stratum] for row in official}
        for row in official:
            ours = summary["strata"][stratum][row[stratum]]
            assert ours["macro"]["mean"] == pytest.approx(float(row["score"]), abs=1e-12)
            assert ours["clusters"] == int(row["n"])


def test_clustered_intervals_cover_what_they_promise() -> None:
    # Words differ in how often their four voices are right; pairs are far from independent.
    rng = np.random.default_rng(0)
    truth, words, voices, runs = 0.6, 40, 4, 400
    names = [str(word) for word in range(words) for _ in range(voices)]
    clustered, independent = 0, 0
    for _ in range(runs):
        chances = rng.beta(0.6 * truth, 0.6 * (1 - truth), words)
        outcome = (rng.random((words, voices)) < chances[:, None]).astype(float).ravel()
        interval = accuracy_interval(outcome, names, "clusters", "cluster")
        wilson = wilson_interval(int(outcome.sum()), len(outcome))
        clustered += interval.low <= truth <= interval.high  # type: ignore[operator]
        independent += wilson.low <= truth <= wilson.high  # type: ignore[operator]
    assert 0.92 <= clustered / runs <= 0.99
    assert independent / runs < 0.85


def test_strata_are_in_natural_order_and_add_up() -> None:
    pairs = _scored(records(made_pairs(clusters=40).pairs, noisy(0)))
    strata = summarize_pairs(pairs, CONFIG)["strata"]["length"]
    assert list(strata) == ["0", "1", "2", "3"]
    assert sum(group["pairs"] for group in strata.values()) == len(pairs.pair_ids)


def test_a_score_that_no_pair_has_is_null() -> None:
    found = [
        ItemRecord(**{**vars(record), "ending_first_frame": None, "ending_sum": None})
        for record in records(made_pairs().pairs, noisy(0))
    ]
    counted = summarize_pairs(_scored(found), CONFIG)["scores"]["ending_weighted_mean"]
    for name in ("macro", "micro", "wilson"):
        assert counted[name]["mean"] is counted[name]["low"] is None
        assert counted[name]["reason"] == "no pair has this score"


def test_splits_have_names_of_their_own() -> None:
    assert metric_name(_outcomes({(0, "A"): 1})) == "swuggy_dev"


def _metrics(**accuracies: tuple[int, int, int]) -> dict[str, dict[str, object]]:
    """Task -> (right, ties, pairs)."""
    return {
        f"{task}_{k}": {
            "task": task.partition("__")[0],
            "score": "weighted_mean",
            "scores": {"weighted_mean": {"right": right, "ties": ties, "pairs": pairs}},
        }
        for k, (task, (right, ties, pairs)) in enumerate(accuracies.items())
    }


def test_the_original_keys() -> None:
    metrics = _metrics(sblimp=(5, 2, 10), swuggy=(3, 0, 4), tstory=(1, 0, 2), sstory=(4, 0, 5))
    result = legacy(metrics, strict=False)
    assert result == {
        "sblimp_accuracy": 0.6, "sblimp_samples": 10, "sblimp_correct": 6,
        "swuggy_accuracy": 0.75, "swuggy_samples": 4, "swuggy_correct": 3,
        "tstory_accuracy": 0.5, "tstory_samples": 2, "tstory_correct": 1,
        "sstory_accuracy": 0.8, "sstory_samples": 5, "sstory_correct": 4,
        "paper_metrics_avg": pytest.approx(0.6625),
        "paper_metrics_f1": pytest.approx(scipy_stats.hmean([0.6, 0.75, 0.5, 0.8])),
    }  # fmt: skip
    assert legacy(metrics, strict=True)["sblimp_accuracy"] == 0.5  # A tie is lost.


def test_what_the_original_keys_have_no_number_for_is_null() -> None:
    result = legacy(_metrics(sblimp=(5, 0, 10), salmon=(1, 0, 1)), strict=True)
    assert result["sblimp_accuracy"] == 0.5
    assert result["swuggy_accuracy"] is result["swuggy_samples"] is None
    assert result["paper_metrics_avg"] is result["paper_metrics_f1"] is None
    # Two splits are two numbers, and the key has room for one.
    both = legacy(_metrics(sblimp=(5, 0, 10), sblimp__test=(1, 0, 10)), strict=True)
    assert both["sblimp_accuracy"] is both["sblimp_samples"] is None
    worst = dict.fromkeys(("sblimp", "swuggy", "tstory", "sstory"), (0, 0, 3))
    assert legacy(_metrics(**worst), strict=True)["paper_metrics_f1"] == 0
