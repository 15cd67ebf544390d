"""Parquet files of ours: opened with every damage in one sentence, written whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ttt import storage
from ttt.errors import UserError
from ttt.files.errors import reading_column_types
from ttt.files.ranged import open_seekable


@contextmanager
def open_parquet(uri: str | Path) -> Iterator[pq.ParquetFile]:
    """An open parquet file; every way in which parquet can be damaged becomes a UserError."""
    try:
        with open_seekable(str(uri)) as file:
            with reading_column_types():
                parquet = pq.ParquetFile(file)
            yield parquet
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{uri}: not a readable parquet file ({_first_line(error)})") from error


@contextmanager
def whole_file(uri: str | Path) -> Iterator[pa.NativeFile]:
    """A file to write that is complete or absent: renamed when done, or then uploaded."""
    if storage.is_local(uri):
        with (
            storage.atomic_path(storage.local_path(uri)) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
        ):
            yield sink
        return
    # Written here first: an upload that is left halfway would be completed, and could not be
    # repeated while the object store errs.
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / "file"
        with pa.OSFile(str(staged), "wb") as sink:
            yield sink
        storage.upload(staged, uri)


@contextmanager
def plain_parquet(uri: str | Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A parquet file to write, complete or absent, whose binary values can be read in place: it is
    uncompressed and PLAIN, with one page per row group."""
    with (
        whole_file(uri) as sink,
        pq.ParquetWriter(
            sink,
            schema,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            data_page_size=2**31 - 1,
        ) as writer,
    ):
        yield writer


def refuse_wrong_columns(
    schema: pa.Schema, wanted: Mapping[str, pa.DataType], uri: str | Path
) -> None:
    """Raise UserError that names a file's missing or differently typed columns."""
    bad = [
        name
        for name, kind in wanted.items()
        if name not in schema.names or schema.field(name).type != kind
    ]
    if bad:
        raise UserError(f"{uri}: columns missing or of another type: {', '.join(bad)}")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
