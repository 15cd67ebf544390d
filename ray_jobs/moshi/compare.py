"""`--compare` of two finished runs, of chapters or of pairs: lines of text, a page, JSON, pictures.

What differs between the two is named before any number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ray_jobs.reports.together import of_chapters, of_pairs, side_name
from ray_jobs.reports.words import equivalence_words, p_words
from ttt import storage
from ttt.eval.chapters.summary import CHAPTERS
from ttt.eval.differences import difference_lines, what_is_compared
from ttt.eval.figures import LOSS_NAMES, drawn_files
from ttt.eval.paired import Side, summarize_comparison
from ttt.eval.pairs.summary import PAIRS
from ttt.eval.rescore import Kind
from ttt.records import write_json


@dataclass(frozen=True)
class Comparison:
    """What a comparison of two runs gives."""

    summary: Mapping[str, Any]
    """As `summarize_comparison` has it; comparison.json."""
    lines: Sequence[str]
    """What is printed below the differing settings and the warnings."""
    page: str
    """report.html."""
    pictures: Mapping[str, bytes]
    """File name -> content, for plots/."""


def compare_chapters(first: str, second: str) -> Comparison:
    """Second minus first, each `RUN` or `RUN:MODEL`; without a name the run's headline model.

    Raises UserError when there is no such run or model, or chapters or codes differ.
    """
    return _compared(CHAPTERS, first, second, _chapter_lines, of_chapters)


def compare_pairs(first: str, second: str) -> Comparison:
    """Second minus first, each `RUN` or `RUN:KEY`; without a key the run's headline.

    Raises UserError when there is no such run or key, or pairs or codes differ.
    """
    return _compared(PAIRS, first, second, _pair_lines, of_pairs)


def publish(made: Comparison, output: str | None) -> None:
    """Print a comparison and write its page, JSON and pictures.

    Args:
        output: the folder for them; None is one below the first run, in comparisons/.
    """
    print(text_of(made))
    first, second = made.summary["sides"]
    folder = output or storage.join(first["run"], "comparisons", _folder_name(first, second))
    write_json(storage.join(folder, "comparison.json"), made.summary)
    for name, content in made.pictures.items():
        storage.write_bytes(storage.join(folder, "plots", _file_name(name)), content)
    storage.write_bytes(storage.join(folder, "report.html"), made.page.encode())
    print(f"report: {storage.join(folder, 'report.html')}")


def text_of(made: Comparison) -> str:
    """Differing settings, warnings, numbers."""
    (compared,) = made.summary["comparisons"]
    told = [f"  {line}" for line in difference_lines(compared["differs"])]
    warned = [f"warning, {text}" for text in made.summary["warnings"]]
    return "\n".join([f"{what_is_compared(compared['differs'])}:", *told, *warned, *made.lines])


def _compared(
    kind: Kind[Any, Any, Any],
    first: str,
    second: str,
    lines: Callable[[Mapping[str, Any]], list[str]],
    page: Callable[[Mapping[str, Any], Mapping[str, bytes]], str],
) -> Comparison:
    summary = summarize_comparison(kind, _named_run(kind, first), _named_run(kind, second))
    files = drawn_files(kind.figures(summary))
    pngs = {name.removesuffix(".png"): png for name, png in files.items() if ".png" in name}
    return Comparison(summary, lines(summary), page(summary, pngs), files)


def _named_run(kind: Kind[Any, Any, Any], text: str) -> Side:
    """Folder and name of `RUN` or `RUN:NAME`; without a name the run's headline."""
    folder, colon, name = text.rpartition(":")
    if not colon or Path(text).is_dir():
        return text, kind.RUN.read(text).headline
    return folder, name


def _chapter_lines(summary: Mapping[str, Any]) -> list[str]:
    (compared,) = summary["comparisons"]
    one, other = map(side_name, summary["sides"])
    lines = [f"{other} minus {one}, {compared['chapters']} chapters, nats"]
    settled = summary["models"][compared["second"]]["settled_from"]
    for loss, found in compared["losses"].items():
        lines.append(f"\n{LOSS_NAMES[loss]}")
        lines += [
            f"  {name:16s} {_difference_words(row, '{:+.4g}'.format)}"
            for name, row in found["measures"].items()
        ]
        if found["equivalence"] is not None:
            lines.append(f"  {equivalence_words(found['equivalence'], settled)}")
    return lines


def _pair_lines(summary: Mapping[str, Any]) -> list[str]:
    (compared,) = summary["comparisons"]
    one, other = map(side_name, summary["sides"])
    lines = [f"{other} minus {one}, points of accuracy"]
    for name, metric in compared["metrics"].items():
        row = metric["scores"][metric["score"]]
        shown = _difference_words(row["accuracy"], lambda share: f"{100 * share:+.2f}")
        lines.append(
            f"  {name:12s} {shown}  "
            f"({metric['pairs']:,} pairs, {row['gained']:,} gained, {row['lost']:,} lost)"
        )
        if metric["left_out"]:
            lines.append(f"  {metric['left_out']:,} pairs of one of the two only are left out")
    return lines


def _difference_words(row: Mapping[str, Any], shown: Callable[[float], str]) -> str:
    """A difference with its interval and test, its numbers written by `shown`."""
    if row["mean"] is None:
        return f"-  ({row['reason']})"
    text = shown(row["mean"])
    if row["low"] is None:
        return f"{text}  (no interval: {row['reason']})"
    text += f"  [{shown(row['low'])}, {shown(row['high'])}]  n = {row['n']}"
    tested = p_words(row)
    return f"{text}  {tested}" if tested else text


def _folder_name(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    names = [side.get("model") or side["key"] for side in (first, second)]
    run = PurePath(second["run"]).name if second["run"] != first["run"] else "this-run"
    return _file_name(f"{names[1]}-of-{run}-minus-{names[0]}")


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
