"""What a cache knows of its clips without reading them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import numpy as np
import pyarrow as pa

from ttt.snac.cache.shard_file import FACT_COLUMNS

Text = TypeVar("Text", bound=str | None)
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The clips of a cache, in the order of the shards."""

    clip_ids: Texts[str]
    n_coarse: np.ndarray
    """Coarsest tokens; int32 [clips]."""
    n_samples: np.ndarray
    """Real samples at 48 kHz; int32 [clips]."""
    speakers: Texts[str | None]
    """Who speaks; None where the cache does not know."""
    bandwidth_hz: np.ndarray
    """How far up a clip's sound reaches; float64 [clips], NaN where the cache does not know."""
    is_copy: np.ndarray
    """Which rows are copies, at other levels, of the clip that stands before them; bool [clips]."""

    @classmethod
    def of(cls, table: pa.Table) -> Catalogue:
        """From an index, or what `read_catalogue` made of shards."""
        return cls(
            Texts[str](table["clip_id"]),
            table["n_coarse"].to_numpy(),
            table["n_samples"].to_numpy(),
            Texts[str | None](_fact(table, "speaker")),
            _fact(table, "bandwidth_hz").cast(pa.float64()).fill_null(np.nan).to_numpy(),
            _fact(table, "copy_of").is_valid().to_numpy(),
        )

    @functools.cached_property
    def originals(self) -> np.ndarray:
        """The rows that are no copies, rising; int64. They are what is counted and measured."""
        return np.flatnonzero(~self.is_copy)

    def with_copies(self, rows: np.ndarray) -> np.ndarray:
        """These originals and their copies, rising."""
        if len(self.originals) == len(self.is_copy):
            return rows
        original = np.maximum.accumulate(np.where(self.is_copy, 0, np.arange(len(self.is_copy))))
        return np.flatnonzero(np.isin(original, rows))

    def counted_in_words(self, rows: np.ndarray | None = None) -> str:
        """How many clips there are (of `rows`), and how many copies."""
        copies = self.is_copy if rows is None else self.is_copy[rows]
        count = int(np.count_nonzero(copies))
        words = f"{len(copies) - count:,} clips"
        return words + (f" and {count:,} copies of them at other levels" if count else "")

    def held_out(self, share: float) -> np.ndarray:
        """The originals that a training keeps for validation, as `held_out_rows` chooses them.

        Their copies neither train, which would show the clip, nor validate, which would count it
        several times.
        """
        return self.originals[held_out_rows(self.clip_ids.at(self.originals), share)]

    def sha256(self, rows: np.ndarray) -> str:
        """A digest of the ids and lengths of the clips at `rows`, in their order.

        The same clips have it wherever their cache lies; codes and audio are not read.
        """
        digest = hashlib.sha256()
        for at in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[at : at + _ROWS_AT_ONCE]
            digest.update("\0".join([*self.clip_ids.at(some), ""]).encode())
            for lengths in (self.n_coarse, self.n_samples):
                digest.update(lengths[some].astype("<i8").tobytes())
        return digest.hexdigest()


class Texts(Sequence[Text]):
    """A text of every clip, read from the index as it is asked for."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, row: int) -> Text: ...
    @overload
    def __getitem__(self, row: slice) -> list[Text]: ...
    def __getitem__(self, row: int | slice) -> Text | list[Text]:
        if isinstance(row, slice):
            return self.at(np.arange(len(self))[row])
        return self._column[row].as_py()

    def at(self, rows: np.ndarray) -> list[Text]:
        """The texts of several clips, in the order of `rows`."""
        return self._column.take(pa.array(rows, pa.int64())).to_pylist()


def _fact(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column of FACT_COLUMNS; nulls where the cache has none."""
    if name in table.schema.names:
        return table[name]
    return pa.chunked_array([pa.nulls(len(table), FACT_COLUMNS[name])])


def held_out_rows(clip_ids: Sequence[str], share: float) -> np.ndarray:
    """Rows of the `share` of clips (at least one) whose ids hash lowest, rising, int64.

    The order of the clips in the cache does not matter, and no clip is ever on both sides.
    """
    digests = [hashlib.sha256(str(clip_id).encode()).digest() for clip_id in clip_ids]
    order = sorted(range(len(digests)), key=digests.__getitem__)
    return np.sort(np.array(order[: max(1, round(share * len(order)))], np.int64))


def fold_rows(clip_ids: Texts[str], rows: np.ndarray, fold: int, folds: int) -> np.ndarray:
    """Those of `rows` that are in a fold (from 1 up), rising: dealt out by a hash of their ids.

    Folds differ by one clip at most; every row is in one.
    """
    digests = [hashlib.sha256(clip_id.encode()).digest() for clip_id in clip_ids.at(rows)]
    order = sorted(range(len(digests)), key=digests.__getitem__)
    return np.sort(rows[order[fold - 1 :: folds]])
