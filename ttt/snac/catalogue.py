"""What a cache knows of its clips without reading them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import numpy as np
import pyarrow as pa

from ttt.snac.shard_file import FACT_COLUMNS

Text = TypeVar("Text", bound=str | None)


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The clips of a cache, in the order of the shards."""

    clip_ids: Sequence[str]
    n_coarse: np.ndarray
    """Coarsest tokens; int32 [clips]."""
    n_samples: np.ndarray
    """Real samples at 48 kHz; int32 [clips]."""
    speakers: Sequence[str | None]
    """Who speaks; None where the cache does not know."""
    bandwidth_hz: np.ndarray
    """How far up a clip's sound reaches; float64 [clips], NaN where the cache does not know."""

    @classmethod
    def of(cls, table: pa.Table) -> Catalogue:
        """From an index, or what `read_catalogue` made of shards."""
        return cls(
            Texts[str](table["clip_id"]),
            table["n_coarse"].to_numpy(),
            table["n_samples"].to_numpy(),
            Texts[str | None](_fact(table, "speaker")),
            _fact(table, "bandwidth_hz").cast(pa.float64()).fill_null(np.nan).to_numpy(),
        )


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
            return self._column.take(pa.array(range(len(self))[row], pa.int64())).to_pylist()
        return self._column[row].as_py()


def _fact(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column of FACT_COLUMNS; nulls where the cache has none."""
    if name in table.schema.names:
        return table[name]
    return pa.chunked_array([pa.nulls(len(table), FACT_COLUMNS[name])])
