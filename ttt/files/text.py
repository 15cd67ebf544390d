"""Text and tables that other programs wrote: with or without a byte order mark, with any line ends.

Text is UTF-8; another encoding is refused by its name instead of being read as something else. A
table may separate its columns by commas, semicolons, tabs or bars, as spreadsheets do by country.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

Row = dict[str, str]
"""Column -> what stands there, without white space around it."""


class MissingColumn(ValueError):
    """A table has no column of that name."""


def read_text(path: Path) -> str:
    """The text of a file without its byte order mark.

    Raises OSError, and ValueError with the reason when it is not UTF-8.
    """
    return decoded(path.read_bytes())


def decoded(content: bytes) -> str:
    """The text of a file's bytes. Raises ValueError as `read_text` does."""
    for mark, name in _OTHER_MARKS:
        if content.startswith(mark):
            raise ValueError(f"it is {name}; save it as UTF-8")
    if b"\0" in content:
        raise ValueError("it holds NUL characters, as UTF-16 does; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {place} is not UTF-8; save it as UTF-8") from error


def read_table(path: Path, needed: Collection[str]) -> list[Row]:
    """The rows of a table under the names in its first line; lines without any value are dropped.

    The separator is the one by which the first line has the columns `needed`. Columns without a
    name are dropped, and cells at the end of a short row are empty.

    Raises OSError, MissingColumn, and ValueError with the reason when it is no such table.
    """
    text = read_text(path)
    named, _, rest = text.partition("\n")
    if named.strip().strip('"').lower().startswith("sep="):  # What a spreadsheet tells itself.
        text = rest
    separator = max(_SEPARATORS, key=lambda each: len(set(needed) & set(_header(text, each))))
    header = _header(text, separator)
    if missing := sorted(set(needed) - set(header)):
        there = ", ".join(filter(None, header)) or "nothing"
        raise MissingColumn(f"the column {missing[0]}; its first line names {there}")
    names = [name for name in header if name]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"it has two columns {twice}")
    reader, rows = _records(text, separator), []
    try:
        next(reader)
        for number, cells in enumerate(reader, start=2):
            cells = [cell.strip() for cell in cells]
            if any("\n" in cell for cell in cells):
                raise ValueError(f"a quote in row {number} is not closed in its line")
            if any(cells[len(header) :]):
                raise ValueError(f"row {number} has more cells than the first line has names")
            if any(cells):
                cells += [""] * (len(header) - len(cells))
                rows.append({name: cells[i] for i, name in enumerate(header) if name})
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
    return rows


_SEPARATORS = (",", ";", "\t", "|")
_OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
"""The longer mark first: UTF-32's begins as UTF-16's does."""


def _header(text: str, separator: str) -> list[str]:
    try:
        return [name.strip() for name in next(_records(text, separator), [])]
    except csv.Error:
        return []


def _records(text: str, separator: str) -> Any:
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator)
