"""The paired comparison of two finished runs over pairs as lines of text."""

from __future__ import annotations

from ray_jobs.chapter_table import difference_words, named_run, warning_lines
from ttt.eval.pair_rescore import compare_runs
from ttt.eval.pair_run import PairRunDescription


def comparison_table(first: str, second: str) -> str:
    """Second minus first, each `RUN` or `RUN:KEY`; without a key the run's headline.

    Raises UserError when there is no such run or key, or pairs or codes differ.
    """
    run_1, key_1 = named_run(first, PairRunDescription)
    run_2, key_2 = named_run(second, PairRunDescription)
    compared = compare_runs(run_1, key_1, run_2, key_2)
    lines = warning_lines((run_1, run_2), PairRunDescription)
    lines.append(f"{key_2} of {run_2} minus {key_1} of {run_1}, points of accuracy")
    for name, metric in compared.items():
        row = metric["scores"][metric["score"]]
        lines.append(
            f"  {name:12s} {difference_words(row['accuracy'], _points)}  "
            f"({metric['pairs']:,} pairs, {row['gained']:,} gained, {row['lost']:,} lost)"
        )
        if metric["left_out"]:
            lines.append(f"  {metric['left_out']:,} pairs of one of the two only are left out")
    return "\n".join(lines)


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"
