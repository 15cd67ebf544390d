"""Which level makes a cheap trick strongest, chosen on rows that hold the grid of all levels.

Hiss takes the level with the lowest mean LSD-HF. Folding + hiss takes, of all pairs whose mean
LSD-HF is at most 1.1 times that, the one with the highest mean env-r: as good in distance, and as
good as a trick can be at following the truth.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

GRID = "tricks"
"""The key of a row under which `ttt.snac.evaluation.tricks.measure_grid` put every level."""
SLACK = 1.1
"""How much above the best hiss folding + hiss may lie in LSD-HF."""

Row = Mapping[str, Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Folding:
    """One strength of folding; see `ttt.snac.evaluation.tricks`."""

    decibels: float | None
    """None: none."""
    falls: bool
    """Falling towards 24 kHz, as linear interpolation leaves it, and not flat."""

    @property
    def words(self) -> str:
        """Such as `folding -20 dB`."""
        return f"{'falling ' * self.falls}folding {self.decibels:g} dB"


NO_FOLDING = Folding(None, falls=False)


@dataclass(frozen=True, eq=False)
class TrickGrid:
    """The metrics of one clip at every pair of levels."""

    hiss_db: tuple[float, ...]
    foldings: tuple[Folding, ...]
    tables: Mapping[str, Floats]
    """Metric -> [foldings, hiss levels]; NaN where it is undefined."""

    def to_dict(self) -> dict[str, Any]:
        """For a row of JSON. Thousands of numbers: float32, little-endian, base64, so that a row
        takes a sixth of the memory that a list would."""
        numbers = np.stack(list(self.tables.values())).astype("<f4")
        return {
            "hiss_db": list(self.hiss_db),
            "folding_db": [folding.decibels for folding in self.foldings],
            "folding_falls": [folding.falls for folding in self.foldings],
            "metrics": list(self.tables),
            "float32_base64": base64.b64encode(numbers.tobytes()).decode(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """What `to_dict` made, to the precision of float32."""
        folds = zip(fields["folding_db"], fields["folding_falls"], strict=True)
        foldings = tuple(Folding(decibels, falls) for decibels, falls in folds)
        hiss_db, metrics = tuple(fields["hiss_db"]), fields["metrics"]
        numbers = np.frombuffer(base64.b64decode(fields["float32_base64"]), "<f4")
        shaped = numbers.reshape(len(metrics), len(foldings), len(hiss_db)).astype(np.float64)
        return cls(hiss_db, foldings, dict(zip(metrics, shaped, strict=True)))


@dataclass(frozen=True)
class Level:
    """One pair of levels and what it measured where it was chosen."""

    folding: Folding
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
        return hiss if self.folding == NO_FOLDING else f"{self.folding.words}, {hiss}"

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """What `asdict` made. Raises TypeError or KeyError for anything else."""
        return cls(**{**fields, "folding": Folding(**fields["folding"])})


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
        hiss, folding_hiss = (Level.from_dict(fields[name]) for name in ("hiss", "folding_hiss"))
        return cls(hiss, folding_hiss, fields["rows"])


def fit(rows: Sequence[Row]) -> FittedTricks | None:
    """The strongest levels on these rows; None when no row has the grid.

    Rows count alike; where a metric is undefined on a row, the others decide. Rows whose grid has
    other levels than the first are left out.
    """
    grids = _same_grids([TrickGrid.from_dict(row[GRID]) for row in rows if row.get(GRID)])
    if not grids:
        return None
    lsd_hf, env_r = (_mean(grids, metric) for metric in ("lsd_hf", "env_r"))
    alone = grids[0].foldings.index(NO_FOLDING)
    if np.isnan(lsd_hf).all():
        return None
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
    fields = row.get(GRID)
    if fields is None:
        return None
    grid = TrickGrid.from_dict(fields)
    if level.folding not in grid.foldings or level.hiss_db not in grid.hiss_db:
        return None
    f, h = grid.foldings.index(level.folding), grid.hiss_db.index(level.hiss_db)
    numbers = {name: float(table[f, h]) for name, table in grid.tables.items()}
    return {name: number if np.isfinite(number) else None for name, number in numbers.items()}


def _same_grids(grids: Sequence[TrickGrid]) -> list[TrickGrid]:
    """Those that have the levels of the first."""
    levels = [(grid.foldings, grid.hiss_db) for grid in grids]
    return [grid for grid, its in zip(grids, levels, strict=True) if its == levels[0]]


def _mean(grids: Sequence[TrickGrid], metric: str) -> Floats:
    """Over rows, [F, H]; NaN where it is undefined on every row."""
    tables = np.stack([grid.tables[metric] for grid in grids])
    known = np.isfinite(tables)
    with np.errstate(invalid="ignore"):
        return np.where(known, tables, 0).sum(axis=0) / known.sum(axis=0)


def _level(grid: TrickGrid, lsd_hf: Floats, env_r: Floats, f: int, h: int) -> Level:
    folding, hiss_db = grid.foldings[f], grid.hiss_db[h]
    alike = [
        other.decibels
        for other in grid.foldings
        if other.decibels is not None and other.falls == folding.falls
    ]
    at_end = hiss_db in (min(grid.hiss_db), max(grid.hiss_db)) or (
        folding.decibels in (min(alike), max(alike))
    )
    correlation = float(env_r[f, h])
    known = None if np.isnan(correlation) else correlation
    return Level(folding, hiss_db, float(lsd_hf[f, h]), known, at_end)
