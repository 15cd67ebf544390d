"""The paired comparison of two finished runs as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_jobs.p_values import p_words
from ttt.eval.chapter_plots import LOSS_NAMES
from ttt.eval.pair_run import PairRunDescription
from ttt.eval.rescore import compare_runs
from ttt.eval.run_description import RunDescription


def comparison_table(first: str, second: str) -> str:
    """Second minus first, each `RUN` or `RUN:MODEL`; without a name the run's headline model.

    Raises UserError when there is no such run or model, or chapters or codes differ.
    """
    run_1, model_1 = named_run(first, RunDescription)
    run_2, model_2 = named_run(second, RunDescription)
    compared = compare_runs(run_1, model_1, run_2, model_2)
    lines = warning_lines((run_1, run_2), RunDescription)
    lines.append(
        f"{model_2} of {run_2} minus {model_1} of {run_1}, {compared['chapters']} chapters, nats"
    )
    for loss, found in compared["losses"].items():
        lines.append(f"\n{LOSS_NAMES[loss]}")
        lines += [
            f"  {name:16s} {difference_words(row, '{:+.4g}'.format)}"
            for name, row in found["measures"].items()
        ]
    return "\n".join(lines)


Description = type[RunDescription] | type[PairRunDescription]


def named_run(text: str, description: Description) -> tuple[str, str]:
    """Folder and name of `RUN` or `RUN:NAME`; without a name the run's headline."""
    folder, colon, name = text.rpartition(":")
    if not colon or Path(text).is_dir():
        return text, description.read(text).headline
    return folder, name


def warning_lines(runs: Sequence[str], description: Description) -> list[str]:
    """What the runs must say of themselves, each run once."""
    return [
        f"warning, {run}: {text}"
        for run in dict.fromkeys(runs)
        for text in description.read(run).warnings
    ]


def difference_words(row: Mapping[str, Any], shown: Callable[[float], str]) -> str:
    """A difference with its interval and test, its numbers written by `shown`."""
    if row["mean"] is None:
        return f"-  ({row['reason']})"
    text = shown(row["mean"])
    if row["low"] is None:
        return f"{text}  (no interval: {row['reason']})"
    text += f"  [{shown(row['low'])}, {shown(row['high'])}]  n = {row['n']}"
    tested = p_words(row)
    return f"{text}  {tested}" if tested else text
