"""`--compare` of two finished runs, of chapters or of pairs: lines of text, a page, JSON, pictures.

What differs between the two is named before any number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ray_jobs.reports.words import p_words
from ttt import storage
from ttt.eval.differences import difference_lines, what_is_compared
from ttt.eval.pairs.run import PairRunDescription
from ttt.eval.run import RunDescription
from ttt.records import write_json

Description = type[RunDescription] | type[PairRunDescription]


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


def named_run(text: str, description: Description) -> tuple[str, str]:
    """Folder and name of `RUN` or `RUN:NAME`; without a name the run's headline."""
    folder, colon, name = text.rpartition(":")
    if not colon or Path(text).is_dir():
        return text, description.read(text).headline
    return folder, name


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


def pngs(pictures: Mapping[str, bytes]) -> dict[str, bytes]:
    """Those of `pictures` that a page shows, by name."""
    return {name.removesuffix(".png"): png for name, png in pictures.items() if ".png" in name}


def _folder_name(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    names = [side.get("model") or side["key"] for side in (first, second)]
    run = PurePath(second["run"]).name if second["run"] != first["run"] else "this-run"
    return _file_name(f"{names[1]}-of-{run}-minus-{names[0]}")


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
