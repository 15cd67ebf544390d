"""Two finished runs of one kind against each other: the paired difference on the same items."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ttt.errors import UserError
from ttt.eval.differences import differing_settings, side_names
from ttt.eval.rescore import Kind
from ttt.eval.run import refuse_other_rounding

Side = tuple[str | Path, str]
"""Folder of a run, and the name of the records in it."""


def compare_runs(kind: Kind[Any, Any, Any], first: Side, second: Side) -> dict[str, Any]:
    """`kind.compare` for two finished runs, under the first's settings.

    Raises:
        UserError: no such run or name, other items or codes, or bfloat16 computed otherwise.
    """
    (run, _, one), (_, _, other) = _sides(kind, first, second)
    return kind.compare(one, other, run.summary, strict=True)


def summarize_comparison(kind: Kind[Any, Any, Any], first: Side, second: Side) -> dict[str, Any]:
    """`compare_runs` as the summary of a run that held both, for its pictures and pages.

    Names say which run each is of where they would be the same.
    """
    sides = _sides(kind, first, second)
    (run, name, one), (other_run, other_name, other) = sides
    shown = side_names((str(first[0]), name), (str(second[0]), other_name))
    config = run.summary
    warned: dict[str, None] = {}
    for (folder, _), (described, of, measured) in zip((first, second), sides, strict=True):
        texts = (*described.warnings, *kind.warnings(described, of, measured))
        warned |= dict.fromkeys(f"{folder}: {text}" for text in texts)
    return {
        "run": {
            "summary": config.to_dict(),
            "models": [
                {"model": title, "controls": described.identity(of).controls}
                for title, (described, of, _) in zip(shown, sides, strict=True)
            ],
        },
        "sides": [
            {"run": str(folder), kind.SIDE: of, "described": asdict(described)}
            for (folder, _), (described, of, _) in zip((first, second), sides, strict=True)
        ],
        "warnings": list(warned),
        f"{kind.NOUN}s": {
            title: kind.numbers(measured, config)
            for title, (_, _, measured) in zip(shown, sides, strict=True)
        },
        "comparisons": [
            {
                "first": shown[0],
                "second": shown[1],
                "differs": differing_settings(run, name, other_run, other_name),
                **kind.compare(one, other, config, strict=True),
            }
        ],
    }


def _sides(kind: Kind[Any, Any, Any], *named: Side) -> list[tuple[Any, str, Any]]:
    """Description, name and measures of each side, measured under the settings of the first."""
    config = None
    sides, runs = [], []
    for folder, name in named:
        run: Any = kind.RUN.read(folder)
        config = config or run.summary
        if name not in run.names:
            what = f"{kind.SIDE} " if kind.SIDE == "model" else ""
            raise UserError(f"{folder}: has no {what}{name}; it has {', '.join(run.names)}")
        runs.append((folder, run))
        sides.append((run, name, kind.measure(folder, run, name, config)))
    refuse_other_rounding(*runs)
    return sides
