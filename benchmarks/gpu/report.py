"""Rows as they come: a line of JSON each, and a table at the end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.cases import NOT_RUN, Row
from ttt.errors import UserError

LINES = "gpu.jsonl"
SAME = ("device", "size")
"""Facts that all runs of a folder share."""


class Report:
    """Rows of one run.

    Args:
        output: folder for gpu.jsonl, which is appended to, so that several runs make one file, and
            gpu.md, which has the rows of them all; None writes neither.
        facts: of the machine and the code; the first line.

    Raises:
        UserError: the folder has rows of another device or size.
    """

    def __init__(self, output: Path | None, facts: Mapping[str, Any]) -> None:
        self.rows: list[Row] = []
        self._output, self._facts = output, facts
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            if (output / LINES).exists():
                _refuse_others(output / LINES, facts)
        self._write({"facts": dict(facts)})

    def record(self, row: Row) -> None:
        """Keep a row: it is in the file before the next one is measured."""
        self.rows.append(row)
        self._write({**dataclasses.asdict(row), "ratio": row.ratio})
        if row.reason != NOT_RUN:
            print(f"{row.section}: {line(row)}", flush=True)

    def finish(self) -> str:
        """The table, which lies beside the lines, too: of all runs of the folder, below their
        facts. Of what was measured more than once it has the last row."""
        runs, rows = [self._facts], self.rows
        if self._output is not None:
            runs, rows = _kept(self._output / LINES)
        heads = [", ".join(f"{name}: {value}" for name, value in run.items()) for run in runs]
        whole = "\n".join(["\n\n".join(heads), "", *table(rows)])
        if self._output is not None:
            Path(self._output, "gpu.md").write_text(whole + "\n", encoding="utf-8")
        return whole

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._output is not None:
            with Path(self._output, LINES).open("a", encoding="utf-8") as file:
                print(json.dumps(record), file=file, flush=True)


def _kept(lines: Path) -> tuple[list[Mapping[str, Any]], list[Row]]:
    """The facts of every run, and the last row of everything in the order of the first."""
    runs: list[Mapping[str, Any]] = []
    rows: dict[tuple[str, str], Row] = {}
    for each in lines.read_text(encoding="utf-8").splitlines():
        record = json.loads(each)
        if "facts" in record:
            runs.append(record["facts"])
            continue
        del record["ratio"]  # It follows from the others.
        row = Row(**record)
        rows[row.section, row.what] = row
    return runs, list(rows.values())


def _refuse_others(lines: Path, facts: Mapping[str, Any]) -> None:
    for run in _kept(lines)[0]:
        for name in SAME:
            if run.get(name) != facts.get(name):
                raise UserError(
                    f"{lines} has rows of {name} {run.get(name)}, not {facts.get(name)}: give "
                    "another folder for --output, or move that file away"
                )


def table(rows: Iterable[Row]) -> list[str]:
    """Markdown: what | estimate | measured | ratio."""
    return ["| what | estimate | measured | ratio |", "|---|---|---|---|", *map(line, rows)]


def line(row: Row) -> str:
    """A row of it."""
    measured = row.reason if row.measured is None else _number(row.measured, row.unit)
    estimate = "" if row.estimate is None else _number(row.estimate, row.unit)
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return f"| {row.what} | {estimate} | {measured} | {ratio} |"


def _number(value: float, unit: str) -> str:
    shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{shown} {unit}".strip()
