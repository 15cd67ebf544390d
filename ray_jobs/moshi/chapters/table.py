"""The paired comparison of two finished runs over chapters."""

from __future__ import annotations

from ray_jobs.moshi.compare import Comparison, difference_words, named_run, pngs
from ray_jobs.reports.together import of_chapters, side_name
from ray_jobs.reports.words import equivalence_words
from ttt.eval.chapters.summary import summarize_comparison
from ttt.eval.figures import LOSS_NAMES, chapter_plots
from ttt.eval.run import RunDescription


def compare_chapters(first: str, second: str) -> Comparison:
    """Second minus first, each `RUN` or `RUN:MODEL`; without a name the run's headline model.

    Raises UserError when there is no such run or model, or chapters or codes differ.
    """
    run_1, model_1 = named_run(first, RunDescription)
    run_2, model_2 = named_run(second, RunDescription)
    summary = summarize_comparison(run_1, model_1, run_2, model_2)
    (compared,) = summary["comparisons"]
    one, other = summary["sides"]
    lines = [
        f"{side_name(other)} minus {side_name(one)}, {compared['chapters']} chapters, nats",
    ]
    settled = summary["models"][compared["second"]]["settled_from"]
    for loss, found in compared["losses"].items():
        lines.append(f"\n{LOSS_NAMES[loss]}")
        lines += [
            f"  {name:16s} {difference_words(row, '{:+.4g}'.format)}"
            for name, row in found["measures"].items()
        ]
        if found["equivalence"] is not None:
            lines.append(f"  {equivalence_words(found['equivalence'], settled)}")
    pictures = chapter_plots(summary)
    return Comparison(summary, lines, of_chapters(summary, pngs(pictures)), pictures)
