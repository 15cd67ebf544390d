"""Rows as they come: a line of JSON each, and a table at the end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.cases import NOT_RUN, Row

LINES = "gpu.jsonl"


class Report:
    """Rows of one run.

    Args:
        output: folder for gpu.jsonl, which is appended to, so that several runs make one file, and
            gpu.md; None writes neither.
        facts: of the machine and the code; the first line.
    """

    def __init__(self, output: Path | None, facts: Mapping[str, Any]) -> None:
        self.rows: list[Row] = []
        self._output, self._facts = output, facts
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
        self._write({"facts": dict(facts)})

    def record(self, row: Row) -> None:
        """Keep a row: it is in the file before the next one is measured."""
        self.rows.append(row)
        self._write({**dataclasses.asdict(row), "ratio": row.ratio})
        if row.reason != NOT_RUN:
            print(f"{row.section}: {line(row)}", flush=True)

    def finish(self) -> str:
        """The table, which lies beside the lines, too."""
        facts = [f"{name}: {value}" for name, value in self._facts.items()]
        whole = "\n".join([", ".join(facts), "", *table(self.rows)])
        if self._output is not None:
            Path(self._output, "gpu.md").write_text(whole + "\n", encoding="utf-8")
        return whole

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._output is not None:
            with Path(self._output, LINES).open("a", encoding="utf-8") as file:
                print(json.dumps(record), file=file, flush=True)


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
