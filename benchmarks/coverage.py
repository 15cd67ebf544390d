"""How often every kind of interval that the project prints holds the truth.

    python -m benchmarks.coverage [--quick] [--trials 1000] [--processes 2]

Worlds whose truth is known are drawn again and again (`benchmarks.coverage_worlds`), with 5 to 200
independent units. Nominal is 95 %; to be reached in the worst world of each kind: 92 % from 8 units
on, 90 % at 5. What lies below by more than two standard errors of its trials is called missed.
Beside the coverage stands how wide the intervals are on average, against Student's t on the same
values. Where a world refuses an interval (a ratio to what may be 0), those that it prints are
counted, and how many these are is said.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.coverage_worlds import World, worlds

UNITS = (5, 8, 12, 20, 50, 200)


@dataclass(frozen=True)
class Cell:
    """One world at one number of units."""

    interval: str
    data: str
    units: int
    coverage: float
    trials: int
    printed: float
    """The share of trials that had an interval."""
    width: float
    """Against Student's t, means of both."""

    @property
    def missed(self) -> bool:
        """Whether the coverage lies below what is required by more than the trials' own error."""
        least = required(self.units)
        error = (least * (1 - least) / (self.trials * self.printed)) ** 0.5
        return self.coverage < least - 2 * error


def main(argv: Sequence[str] | None = None) -> int:
    """Print the worst cell of every kind and number of units; 1 when one does not reach."""
    parser = argparse.ArgumentParser(description="Coverage of every printed interval.")
    parser.add_argument("--quick", action="store_true", help="few worlds, 5 and 8 units")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--all", action="store_true", help="print every cell")
    parser.add_argument("--only", default="", help="kinds whose name holds this text")
    given = parser.parse_args(argv)
    units = UNITS[:2] if given.quick else UNITS
    cells = simulate(units, given.trials, given.quick, given.processes, given.only)
    shown = cells if given.all else worst(cells)
    print(f"{'interval':36s} units  coverage  width against t  printed  worst world")
    for cell in shown:
        mark = "  MISSED" if cell.missed else ""
        print(
            f"{cell.interval:36s} {cell.units:5d}  {cell.coverage:8.3f}  {cell.width:15.2f}  "
            f"{100 * cell.printed:5.0f} %  {cell.data}{mark}"
        )
    return int(any(cell.missed for cell in cells))


def simulate(
    units: Sequence[int], trials: int, quick: bool, processes: int | None, only: str = ""
) -> list[Cell]:
    """Every world at every number of units; `processes` of None or 1 stays in this one."""
    count = len(_worlds(quick))
    wanted = [k for k in range(count) if only in _worlds(quick)[k].interval]
    work = list(itertools.product(wanted, units))
    measure = partial(_measured, quick=quick, trials=trials)
    if not processes or processes == 1:
        return list(itertools.starmap(measure, work))
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(measure, *zip(*work, strict=True), chunksize=4))


def worst(cells: Iterable[Cell]) -> list[Cell]:
    """Of every kind of interval and number of units the cell with the lowest coverage."""
    found: dict[tuple[str, int], Cell] = {}
    for cell in cells:
        key = (cell.interval, cell.units)
        if key not in found or cell.coverage < found[key].coverage:
            found[key] = cell
    return [found[key] for key in sorted(found)]


def required(units: int) -> float:
    """What a nominal 95 % must cover with so many units."""
    return 0.92 if units >= 8 else 0.90


def _worlds(quick: bool) -> list[World]:
    return list(worlds((0.05, 0.5, 0.99), (1, 4)) if quick else worlds())


def _measured(number: int, units: int, *, quick: bool, trials: int) -> Cell:
    world = _worlds(quick)[number]
    rng = np.random.default_rng([number, units])
    held = printed = 0
    widths = np.zeros(2)
    for _ in range(trials):
        interval, t_width = world.draw(rng, units)
        if interval.low is None or interval.high is None:
            continue
        printed += 1
        # A world without noise is printed as the truth, up to rounding.
        held += interval.low - 1e-9 <= world.truth <= interval.high + 1e-9
        widths += interval.high - interval.low, t_width
    width = widths[0] / widths[1] if widths[1] else float("nan")
    return Cell(world.interval, world.data, units, held / printed, trials, printed / trials, width)


if __name__ == "__main__":
    sys.exit(main())
