"""The paired comparison of two finished runs over pairs."""

from __future__ import annotations

from ray_jobs.moshi.compare import Comparison, difference_words, named_run, pngs
from ray_jobs.reports.together import of_pairs, side_name
from ttt.eval.pairs.figures import pair_plots
from ttt.eval.pairs.run import PairRunDescription
from ttt.eval.pairs.summary import summarize_comparison


def compare_pairs(first: str, second: str) -> Comparison:
    """Second minus first, each `RUN` or `RUN:KEY`; without a key the run's headline.

    Raises UserError when there is no such run or key, or pairs or codes differ.
    """
    run_1, key_1 = named_run(first, PairRunDescription)
    run_2, key_2 = named_run(second, PairRunDescription)
    summary = summarize_comparison(run_1, key_1, run_2, key_2)
    (compared,) = summary["comparisons"]
    one, other = summary["sides"]
    lines = [f"{side_name(other)} minus {side_name(one)}, points of accuracy"]
    for name, metric in compared["metrics"].items():
        row = metric["scores"][metric["score"]]
        lines.append(
            f"  {name:12s} {difference_words(row['accuracy'], _points)}  "
            f"({metric['pairs']:,} pairs, {row['gained']:,} gained, {row['lost']:,} lost)"
        )
        if metric["left_out"]:
            lines.append(f"  {metric['left_out']:,} pairs of one of the two only are left out")
    pictures = pair_plots(summary)
    return Comparison(summary, lines, of_pairs(summary, pngs(pictures)), pictures)


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"
