"""Reading clips by whole row groups: the slow way, for shards whose values cannot be located."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from ttt.snac.cache.shard_file import code_columns, interleaved_codes, open_shard
from ttt.snac.geometry import CodeGeometry

_KEPT = 4
"""Row groups kept in memory; one of 64 clips of ten seconds is 60 MB."""


class RowGroups:
    """The codes and audio of single clips, by shard number and row in the shard."""

    def __init__(self, uri_of: Callable[[int], str], geometry: CodeGeometry) -> None:
        self._uri_of = uri_of
        self._geometry = geometry
        self._edges: dict[int, np.ndarray] = {}
        self._kept: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def codes(self, shard: int, row: int) -> np.ndarray:
        """All codes of a clip: int16 [n, codes_per_coarse].

        Raises UserError when the shard is damaged, ValueError when the scales differ in time.
        """
        return interleaved_codes(self._clip(shard, row), self._geometry)

    def audio(self, shard: int, row: int) -> np.ndarray:
        """All audio of a clip: int16 [samples]. Raises UserError when the shard is damaged."""
        return np.frombuffer(self._clip(shard, row)["audio"][0].as_buffer(), "<i2")

    def _clip(self, shard: int, row: int) -> pa.Table:
        with self._lock:
            edges = self._edges.get(shard)
            if edges is None:
                edges = self._edges[shard] = self._row_group_edges(shard)
            group = int(np.searchsorted(edges, row, side="right")) - 1
            table = self._kept.pop((shard, group), None)
            if table is None:
                table = self._read(shard, group)
            self._kept[shard, group] = table
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return table.slice(row - int(edges[group]), 1)

    def _row_group_edges(self, shard: int) -> np.ndarray:
        with open_shard(self._uri_of(shard)) as file:
            metadata = file.metadata
            counts = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        return np.concatenate([[0], np.cumsum(counts)])

    def _read(self, shard: int, group: int) -> pa.Table:
        columns = ["clip_id", "n_coarse", *code_columns(self._geometry), "audio"]
        with open_shard(self._uri_of(shard)) as file:
            return file.read_row_group(group, columns=columns)
