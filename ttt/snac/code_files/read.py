"""Files of codes, found and read, one utterance at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttt.files.errors import cause, reading
from ttt.files.walk import FoundFile, find_files, suffix_of
from ttt.snac.code_files.contents import (
    CODE_SUFFIXES,
    TEXT_SUFFIXES,
    Content,
    Place,
    UnnamedLayout,
    holds_codes,
    read_content,
    read_line,
    read_lines,
)
from ttt.snac.code_files.layouts import Layout, rows_of
from ttt.snac.geometry import CodeGeometry
from ttt.snac.orpheus.frames import BadFrame


@dataclass(frozen=True)
class Utterance:
    """One clip's codes in a file, as they were looked at."""

    place: Place | None = None
    """Its line of a .jsonl file; None: the whole file."""
    name: str | None = None
    """The line's `id`, or its number."""
    problem: str | None = None
    """Why it cannot be read, in a sentence without its path."""
    told: str | None = None
    """The layout that it is read by, on one line; None with a problem."""
    bad_frames: int = 0
    """Damaged frames of tokens, where the codes were looked at."""


@dataclass(frozen=True)
class ReadCodes:
    """An utterance's codes."""

    rows: np.ndarray
    """Interleaved int16 [n, codes_per_coarse]."""
    bad_frames: tuple[BadFrame, ...]
    """Damaged frames of tokens, which are not among the rows."""


def read_codes(
    path: Path, geometry: CodeGeometry, layout: Layout | None = None, place: Place | None = None
) -> ReadCodes:
    """The codes of one file, or of one line of a .jsonl file.

    Raises UserError with the file and the reason, whatever it holds: not readable, another layout,
    none that is named, scales that do not cover the same time, or codes outside the codebook.
    """
    with reading(path):
        content = read_content(path) if place is None else read_line(path, place)
        return ReadCodes(*rows_of(content, layout or Layout(), geometry))


def utterances(path: Path, layout: Layout, geometry: CodeGeometry | None) -> list[Utterance]:
    """What a file holds; codes are looked at where the decoder's geometry is known.

    Raises UnnamedLayout where a layout is not named, and what reading a file may raise.
    """
    if suffix_of(path.name) != ".jsonl":
        told, bad = _looked_at(read_content(path), layout, geometry)
        return [Utterance(told=told, bad_frames=bad)]
    found = []
    for line in read_lines(path):
        problem, told, bad = line.problem, None, 0
        try:
            if line.content is not None:
                told, bad = _looked_at(line.content, layout, geometry)
        except UnnamedLayout as error:
            raise UnnamedLayout(f"line {line.place.number}: {error}") from error
        except ValueError as error:
            problem = cause(error)
        if problem is not None:
            problem = f"line {line.place.number}: {problem}"
        found.append(Utterance(line.place, line.name, problem, told, bad))
    return found


def list_code_files(folder: Path) -> list[FoundFile]:
    """What `ttt.files.walk` finds of codes below `folder`; `folder` may be one file.

    Text that is no codes is left out there as a file of another suffix is.
    """
    if folder.is_file():
        return [FoundFile(folder.name)]
    found = find_files(folder, CODE_SUFFIXES) if folder.is_dir() else []
    return [
        each
        for each in found
        if each.problem is not None
        or suffix_of(each.path) not in TEXT_SUFFIXES
        or holds_codes(folder / each.path)
    ]


def _looked_at(content: Content, layout: Layout, geometry: CodeGeometry | None) -> tuple[str, int]:
    """The layout on one line, and how many frames are damaged."""
    told = layout.told(layout.of(content))
    return told, 0 if geometry is None else len(rows_of(content, layout, geometry)[1])
