"""Which level makes a cheap trick strongest, chosen on rows that hold the grid of all levels.

Hiss takes the level with the lowest mean LSD-HF. Folding + hiss takes, of all pairs whose mean
LSD-HF is at most 1.1 times that, the one with the highest mean env-r: as good in distance, and as
good as a trick can be at following the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

GRID = "tricks"
"""The key of a row under which `ttt.snac.tricks.measure_grid` put every level."""
SLACK = 1.1
"""How much above the best hiss folding + hiss may lie in LSD-HF."""

Row = Mapping[str, Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """One pair of levels and what it measured where it was chosen."""

    folding_db: float | None
    """None: no folding."""
    hiss_db: float
    lsd_hf: float
    env_r: float | None
    """None where the truth's envelopes are constant."""
    at_end: bool
    """Whether it lies at the end of the levels tried, so that a stronger one may lie beyond."""

    @property
    def words(self) -> str:
        """Such as `hiss -80 dB` or `folding -20 dB, hiss -80 dB`."""
        hiss = f"hiss {self.hiss_db:g} dB"
        return hiss if self.folding_db is None else f"folding {self.folding_db:g} dB, {hiss}"


@dataclass(frozen=True)
class FittedTricks:
    """The strongest level of both tricks on some rows."""

    hiss: Level
    folding_hiss: Level
    rows: int
    """Clips or windows they were chosen on."""

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """What `to_dict` made. Raises TypeError or KeyError for anything else."""
        return cls(Level(**fields["hiss"]), Level(**fields["folding_hiss"]), fields["rows"])


def fit(rows: Sequence[Row]) -> FittedTricks | None:
    """The strongest levels on these rows; None when no row has the grid.

    Rows count alike; where a metric is undefined on a row, the others decide.
    """
    grids = same_grids(rows)
    if not grids:
        return None
    lsd_hf, env_r = (_mean(grids, metric) for metric in ("lsd_hf", "env_r"))
    if np.isnan(lsd_hf[_no_folding(grids[0])]).all():
        return None
    alone = _no_folding(grids[0])
    hiss = int(np.nanargmin(lsd_hf[alone]))
    pairs = lsd_hf.copy()
    pairs[alone] = np.nan
    near = np.where(pairs <= SLACK * lsd_hf[alone, hiss], env_r, np.nan)
    if np.isnan(near).all():  # nothing to follow in the truth, or nothing near: only LSD-HF tells
        both = np.unravel_index(np.nanargmin(pairs), pairs.shape)
    else:
        both = np.unravel_index(np.nanargmax(near), near.shape)
    return FittedTricks(
        _level(grids[0], lsd_hf, env_r, alone, hiss),
        _level(grids[0], lsd_hf, env_r, int(both[0]), int(both[1])),
        len(grids),
    )


def at_level(row: Row, level: Level) -> dict[str, float | None] | None:
    """The metrics of a trick on one row; None where the row has no grid or it lacks the level."""
    grid = row.get(GRID)
    if grid is None:
        return None
    if level.folding_db not in grid["folding_db"] or level.hiss_db not in grid["hiss_db"]:
        return None
    f, h = grid["folding_db"].index(level.folding_db), grid["hiss_db"].index(level.hiss_db)
    return {name: table[f][h] for name, table in grid.items() if not name.endswith("_db")}


def same_grids(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """The grids of all rows that have the levels of the first that has any."""
    grids = [row[GRID] for row in rows if row.get(GRID) is not None]
    keys = ("folding_db", "hiss_db")
    return [grid for grid in grids if all(grid[key] == grids[0][key] for key in keys)]


def _mean(grids: Sequence[Mapping[str, Any]], metric: str) -> Floats:
    """Over rows, [F, H]; NaN where it is undefined on every row."""
    table = np.array([grid[metric] for grid in grids], dtype=np.float64)  # None becomes NaN
    known = np.isfinite(table)
    with np.errstate(invalid="ignore"):
        return np.where(known, table, 0).sum(axis=0) / known.sum(axis=0)


def _no_folding(grid: Mapping[str, Any]) -> int:
    return grid["folding_db"].index(None)


def _level(grid: Mapping[str, Any], lsd_hf: Floats, env_r: Floats, f: int, h: int) -> Level:
    folding, hiss = grid["folding_db"], grid["hiss_db"]
    stronger = [level for level in folding if level is not None]
    at_end = hiss[h] in (min(hiss), max(hiss)) or folding[f] in (min(stronger), max(stronger))
    correlation = float(env_r[f, h])
    return Level(
        folding[f],
        hiss[h],
        float(lsd_hf[f, h]),
        None if np.isnan(correlation) else correlation,
        at_end,
    )
