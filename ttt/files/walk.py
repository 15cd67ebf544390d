"""One walk over folders of people's data, as they lie on disks.

Links to folders are followed, and every folder is entered once however many links lead to it:
under its own name where it lies below the root, else under the first link in natural order. So a
link to a parent is no endless loop, and nothing is listed twice for having two names. A link to a
file is a file. Hidden files and folders (a leading dot, and what systems and macOS archives leave
behind) are passed over. Suffixes are compared without regard to case.

What has the wanted suffix and cannot be read as a file is listed with its problem: a link to
nothing, a folder, a pipe, a name that is not UTF-8 (no record could hold it); and so is a folder
that cannot be listed. Paths have forward slashes and natural order (x_2 before x_10).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ttt.errors import UserError


@dataclass(frozen=True)
class FoundFile:
    """What has a wanted suffix below a folder."""

    path: str
    """Below the folder, with forward slashes; always UTF-8."""
    problem: str | None = None
    """Why it cannot be read, in a sentence without its path; None for a file."""


def find_files(folder: str | Path, suffixes: Collection[str]) -> list[FoundFile]:
    """Everything below `folder` with one of the suffixes (lower case), in natural order.

    Raises UserError when `folder` itself cannot be listed.
    """
    root = os.fspath(folder)
    try:
        os.scandir(root).close()
    except OSError as error:
        raise UserError(f"{shown(root)}: cannot be listed ({error.strerror})") from error
    found = _Walk(root, frozenset(suffixes)).everything()
    return sorted(found, key=lambda each: (natural_key(each.path), each.path))


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key that puts chapter_2 before chapter_10."""
    return tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in _NUMBERS.split(text)
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's data."""
    return name.startswith(".") or name in _LITTER


def suffix_of(name: str) -> str:
    """The suffix of a path or name in lower case, such as .flac; "" when there is none."""
    return os.path.splitext(name)[1].lower()


def same_name_key(name: str) -> str:
    """Equal for names that some disks cannot tell apart: case, composed and decomposed accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def shown(text: str) -> str:
    r"""`text` with every byte that is not UTF-8 as \xNN, so that it can be printed and stored."""
    return os.fsencode(text).decode(errors="backslashreplace")


def fitting_name(name: str, most_bytes: int) -> str:
    """A file name of at most `most_bytes`: itself, or its beginning and a digest of the whole."""
    if len(name.encode()) <= most_bytes:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return name.encode()[: most_bytes // 2].decode(errors="ignore") + "-" + digest


_NUMBERS = re.compile(r"(\d+)", re.ASCII)
_LITTER = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})


class _Walk:
    """Lists folders, first without following links, then link by link."""

    def __init__(self, root: str, suffixes: frozenset[str]) -> None:
        self._root, self._suffixes = root, suffixes
        self._entered: set[str] = set()
        self._links: list[str] = []
        self._found: list[FoundFile] = []
        self._named_as_files: list[str] = []

    def everything(self) -> list[FoundFile]:
        self._below("")
        while self._links:
            self._links.sort(key=lambda path: (natural_key(path), path), reverse=True)
            self._below(self._links.pop())
        for folder in self._named_as_files:
            inside = f"{shown(folder)}/"
            if not any(each.path.startswith(inside) for each in self._found):
                self._note(folder, "is a folder, not a file")
        return self._found

    def _below(self, start: str) -> None:
        waiting = [(start, os.path.realpath(os.path.join(self._root, start)))]
        while waiting:
            path, real = waiting.pop()
            place = os.path.join(self._root, path)
            if real in self._entered:
                continue
            self._entered.add(real)
            try:
                with os.scandir(place) as entries:
                    inside = [entry for entry in entries if not is_hidden(entry.name)]
            except OSError as error:
                self._note(path, f"cannot be listed ({error.strerror})")
                continue
            for entry in inside:
                below = f"{path}/{entry.name}" if path else entry.name
                if self._is_entered(entry, below):
                    waiting.append((below, os.path.join(real, entry.name)))

    def _is_entered(self, entry: os.DirEntry[str], path: str) -> bool:
        """Whether to go into it now, a folder that is no link; anything else is noted."""
        wanted = suffix_of(entry.name) in self._suffixes
        try:
            # What is no link has told its kind in the listing: no file of thousands is asked.
            target = entry.stat().st_mode if entry.is_symlink() else None
        except OSError:
            # A link to nothing that has no suffix was perhaps a folder of data.
            if wanted or not suffix_of(entry.name):
                aim = shown(os.readlink(entry.path))
                self._note(path, f"is a link to {aim}, which cannot be found")
            return False
        if entry.is_dir(follow_symlinks=False) if target is None else stat.S_ISDIR(target):
            if wanted:
                self._named_as_files.append(path)
            if target is None:
                return True
            self._links.append(path)
        elif not wanted:
            return False
        elif not (entry.is_file(follow_symlinks=False) if target is None else stat.S_ISREG(target)):
            self._note(path, "is no regular file but a pipe, socket or device")
        elif not path.isascii() and shown(path) != path:
            self._note(path, "has a name that is not UTF-8: rename it")
        else:
            self._found.append(FoundFile(path))
        return False

    def _note(self, path: str, problem: str) -> None:
        self._found.append(FoundFile(shown(path), problem))
