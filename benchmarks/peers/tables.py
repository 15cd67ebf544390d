"""The result of a run as two tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.peers.rates import (
    per_window,
    ratios,
    speeds,
    speeds_after_start,
    spread,
)


def rates(result: dict[str, Any]) -> str:
    """What was measured of, and the table of rates and bytes."""
    versions = {
        package: version
        for way in result["ways"].values()
        for package, version in way["versions"].items()
        if package != "numpy"  # Not one: MosaicML's pin excludes the project's.
    }
    listed = ", ".join(f"{package} {version}" for package, version in versions.items())
    compared = min(way["compared"] for way in result["ways"].values())
    return "\n".join(
        [
            f"{result['clips']} clips, {result['cpus']} CPUs, load {_numbers(result['load'], 1)}; "
            f"{listed}; {compared} windows of each or more equal the clips.",
            "",
            *_rates(result),
        ]
    )


def kills(result: dict[str, Any]) -> str:
    """The table of killed and resumed epochs."""
    return "\n".join(_kills(result))


def _rates(result: dict[str, Any]) -> list[str]:
    warm, cold, ways = result["warm"], result["cold"], result["ways"]
    own = [name for name in ("ours", "ours_in_process") if name in ways]
    heads = [f"{ways[name]['words'].partition(' (')[0]}: times this" for name in own]
    head = ["way", "warm, after its first batch, windows/s", *heads]
    head += ["cold, after its first batch", "warm epoch", "its first batch", "cold epoch"]
    head += ["KB/window by read calls", "KB/window from storage", "MB"]
    rows = [_row(head), _row(["---"] * len(head))]
    for name, way in ways.items():
        first = spread([each["first"] for each in warm[name]])["median"]
        cells = [
            way["words"],
            _spread(speeds_after_start(warm, name), 0),
            *["" if mine == name else f"{_spread(ratios(warm, mine, name), 2)}" for mine in own],
            _spread(speeds_after_start(cold, name), 0),
            _spread(speeds(warm, name), 0),
            f"{first:.2f} s",
            _spread(speeds(cold, name), 0),
            _kilobytes(per_window(cold, name, "asked")),
            _kilobytes(per_window(cold, name, "fetched")),
            f"{way['megabytes']:,.0f}",
        ]
        rows.append(_row(cells))
    return rows


def _kills(result: dict[str, Any]) -> list[str]:
    head = ["way", "same order twice", "killed after step", "repeated", "lost", "other window"]
    head += ["goes on exactly", "the same with one worker after the kill"]
    rows = [_row(head), _row(["---"] * len(head))]
    for name, kills in result["kills"].items():
        cells = [result["ways"][name]["words"], "yes" if kills["reproducible"] else "no"]
        if not kills["mechanism"]:
            rows.append(_row([*cells, "no mechanism", "", "", "", "", ""]))
            continue
        outcomes = [each for each in kills["kills"] if "refused" not in each]
        cells += [_numbers([each["step"] for each in kills["kills"]], 0)]
        for what in ("repeated", "lost", "moved"):
            cells.append(_numbers([each[what] for each in outcomes], 0))
        exact = sum(each["exact"] for each in outcomes)
        refused = [each["refused"] for each in kills["kills"] if "refused" in each]
        cells.append(f"{exact} of {len(kills['kills'])}")
        if refused:
            cells[-1] += f"; refused {len(refused)}: {refused[0]}"
        rows.append(_row([*cells, _one_worker(kills["one_worker"])]))
    return rows


def _one_worker(outcome: dict[str, Any]) -> str:
    if "refused" in outcome:
        return f"refused: {outcome['refused']}"
    if outcome["exact"]:
        return "goes on exactly"
    order = "another order" if outcome["repeated"] == outcome["lost"] == 0 else ""
    return order or f"{outcome['repeated']} repeated, {outcome['lost']} lost"


def _kilobytes(count: float | None) -> str:
    return "not counted" if count is None else f"{count / 1000:,.0f}"


def _spread(values: list[float], digits: int) -> str:
    if any(math.isnan(value) for value in values):
        return "one batch"
    found = spread(values)
    low, high = found["range"]
    return f"{found['median']:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def _numbers(values: Sequence[float], digits: int) -> str:
    return ", ".join(f"{value:,.{digits}f}" for value in values)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
