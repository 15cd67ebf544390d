"""Hugging Face parquet: every row is a clip, its sound file in a struct {bytes, path}.

Listing reads footers, and the column of speakers where one is named. A reader goes through a row
group page by page: it holds the page under way, which is at most the row group, and a few rows.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ttt.errors import UserError
from ttt.files.errors import cause, reading_column_types
from ttt.files.ranged import open_seekable
from ttt.retries import StorageUnavailable
from ttt.snac.cache.inputs import ClipInput, InputChanged, LeftOut
from ttt.snac.cache.roots.files import Listing, RootFile, files_of, gib
from ttt.snac.cache.speakers import rule_name, with_speaker

_FILES_AT_ONCE = 8
_BATCH_ROWS = 8
_BATCHES_KEPT = 4
"""Threads ask for rows nearly in order: a row this far back is still there."""
_GROUPS_OPEN = 2


def list_parquets(root: str, column: str | None, speaker: str | None) -> Listing:
    """Every row of every parquet file of a root, in order.

    Raises UserError for a file that cannot be read, when a column is not there, when it is not
    clear which one holds the sound, and when no file holds a row.
    """
    files = files_of(root, (".parquet",))
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        listed = list(pool.map(lambda file: _clips(file, column, speaker), files))
    inputs = [clip for clips, _ in listed for clip in clips]
    if not inputs:
        raise UserError(f"{root}: no row in {len(files):,} parquet file(s)")
    size = gib(sum(file.bytes for file in files))
    return Listing(
        inputs,
        f"{len(inputs):,} rows in {len(files):,} .parquet of {size}",
        held_bytes=max(held for _, held in listed),
    )


class ParquetRows:
    """The sound files in the rows of a parquet file, for threads that go through it in order."""

    def __init__(self, place: str, column: str | None) -> None:
        try:
            self._file = _open(place)
        except StorageUnavailable:
            raise
        except UserError as error:
            raise InputChanged(str(error)) from error
        self._column = _audio_column(self._file.schema_arrow, column, place)
        metadata = self._file.metadata
        counts = [metadata.row_group(each).num_rows for each in range(metadata.num_row_groups)]
        self._ends = np.cumsum(counts)
        self._groups: OrderedDict[int, _RowGroup] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, row: int) -> bytes | None:
        """The bytes of a row; None where it has none. Raises LeftOut where pages are damaged."""
        number = int(np.searchsorted(self._ends, row, "right"))
        within = row - (int(self._ends[number - 1]) if number else 0)
        with self._lock:
            group = self._groups.get(number)
            if group is None or within < group.first:
                batches = self._file.iter_batches(
                    _BATCH_ROWS, row_groups=[number], columns=[f"{self._column}.bytes"]
                )
                group = self._groups[number] = _RowGroup(batches)
                if len(self._groups) > _GROUPS_OPEN:
                    self._groups.popitem(last=False)
            return group.value(within)


class _RowGroup:
    """A row group under way, and the last rows that were read."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._kept: deque[pa.Array] = deque(maxlen=_BATCHES_KEPT)
        self._end = 0
        self._damage: LeftOut | None = None

    @property
    def first(self) -> int:
        """The first row that is still there."""
        return self._end - sum(map(len, self._kept))

    def value(self, row: int) -> bytes | None:
        while row >= self._end:
            self._advance()
        begin = self._end
        for rows in reversed(self._kept):
            begin -= len(rows)
            if row >= begin:
                return rows[row - begin].as_py()
        raise AssertionError("a row before `first` was asked for")

    def _advance(self) -> None:
        if self._damage is not None:
            raise self._damage
        try:
            # Of a row whose struct is null the bytes are, too.
            (rows,) = next(self._batches).column(0).flatten()
        except StorageUnavailable:
            raise
        except (pa.ArrowException, OSError, StopIteration) as error:
            self._damage = LeftOut("unreadable", f"a page of its row group is damaged: {error}")
            raise self._damage from error
        self._kept.append(rows)
        self._end += len(rows)


def _clips(file: RootFile, column: str | None, speaker: str | None) -> tuple[list[ClipInput], int]:
    """The rows of a file, and the most that a reader of it holds."""
    if file.problem is not None:
        raise UserError(f"{file.place}: {file.problem}")
    parquet = _open(file.place)
    audio = _audio_column(parquet.schema_arrow, column, file.place)
    metadata = parquet.metadata
    clips = [
        ClipInput(f"{file.path}/{row}", source=file.place, row=row, file_bytes=file.bytes)
        for row in range(metadata.num_rows)
    ]
    if name := rule_name(speaker, "column"):
        clips = [
            with_speaker(clip, value, f"speaker: row {clip.row} has none in {name}")
            for clip, value in zip(clips, _speakers(parquet, name, file.place), strict=True)
        ]
    leaves = [metadata.schema.column(index).path for index in range(metadata.num_columns)]
    leaf = leaves.index(f"{audio}.bytes")
    groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    return clips, max((group.column(leaf).total_uncompressed_size for group in groups), default=0)


def _open(place: str) -> pq.ParquetFile:
    """A parquet file read page by page. Raises UserError where it is none."""
    try:
        with reading_column_types():
            return pq.ParquetFile(open_seekable(place), buffer_size=_READ_AT_ONCE)
    except StorageUnavailable:
        raise
    except (pa.ArrowException, OSError) as error:
        reason = cause(error)
        raise UserError(f"{place}: cannot be read as parquet ({reason}); bring it whole") from error


_READ_AT_ONCE = 2**20


def _audio_column(schema: pa.Schema, column: str | None, place: str) -> str:
    """The column that holds sound files."""
    fitting = [field.name for field in schema if _is_sound(field.type)]
    there = ", ".join(schema.names)
    if column is not None and column not in schema.names:
        raise UserError(f"{place}: has no column {column}; it has {there} (input.column)")
    if column is not None and column not in fitting:
        raise UserError(
            f"{place}: column {column} holds {schema.field(column).type}, and sound is a struct of "
            "bytes and path"
        )
    if column is None and len(fitting) != 1:
        which = f"{' and '.join(fitting)} both hold" if fitting else "no column holds"
        raise UserError(
            f"{place}: {which} sound, a struct of bytes and path; name one of {there} as "
            "input.column"
        )
    return column or fitting[0]


def _is_sound(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    inner = kind.field("bytes").type
    return pa.types.is_binary(inner) or pa.types.is_large_binary(inner)


def _speakers(parquet: pq.ParquetFile, name: str, place: str) -> list[object]:
    schema = parquet.schema_arrow
    if name not in schema.names:
        there = ", ".join(schema.names)
        raise UserError(f"{place}: has no column {name}; it has {there} (input.speaker)")
    kind = schema.field(name).type
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(test(inner) for test in _NAMES):
        # Values of Ray's own column types are pickles: reading one would run its code.
        raise UserError(f"{place}: column {name} holds {kind}; speakers are text or whole numbers")
    return parquet.read([name]).column(0).to_pylist()


_NAMES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
