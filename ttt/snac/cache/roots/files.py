"""The files of a root: one that is named itself, or all of a suffix below a folder or URI."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

from ttt import storage
from ttt.errors import UserError
from ttt.files.manifests import no_such_place
from ttt.files.walk import find_files, is_hidden, natural_key, suffix_of
from ttt.snac.cache.inputs import ClipInput

KEY = "input.audio"
"""What the configuration calls roots, for sentences."""


@dataclass(frozen=True)
class RootFile:
    """A file that holds clips."""

    path: str
    """Below the root, with forward slashes; the file's name where it is the root."""
    place: str
    """Absolute path or URI."""
    bytes: int
    problem: str | None = None
    """Why it cannot be read."""

    def left_out(self, note: str) -> ClipInput:
        """The file itself as an input of which nothing can be cached, for the manifest."""
        note = f"{self.path}: {note}"
        return ClipInput(self.path, source=self.place, problem="unreadable", problem_note=note)


@dataclass(frozen=True)
class Listing:
    """The clips of a root, in the order in which shards are cut."""

    inputs: list[ClipInput]
    words: str
    """What the root holds, for people."""
    held_bytes: int = 0
    """The most that a reader of these clips holds besides the clips."""
    notes: tuple[str, ...] = ()


def files_of(root: str, suffixes: Collection[str]) -> list[RootFile]:
    """The files of a root, in natural order; `root` is an absolute path or a URI.

    Raises UserError when there is no such place, or nothing with one of the suffixes in it.
    """
    found = _local_files(root, suffixes) if storage.is_local(root) else _remote(root, suffixes)
    if not found:
        raise UserError(f"{root}: holds no {' or '.join(suffixes)} file, at any depth")
    return found


def gib(n_bytes: int) -> str:
    """Bytes for people."""
    return f"{n_bytes / 2**30:.2f} GiB"


def _local_files(root: str, suffixes: Collection[str]) -> list[RootFile]:
    path = str(storage.local_path(root))
    if os.path.isfile(path):
        return [RootFile(os.path.basename(path), path, os.path.getsize(path))]
    if not os.path.isdir(path):
        raise no_such_place(root, KEY)
    return [
        RootFile(
            each.path,
            place := os.path.join(path, each.path),
            0 if each.problem else os.path.getsize(place),
            each.problem,
        )
        for each in find_files(path, suffixes)
    ]


def _remote(root: str, suffixes: Collection[str]) -> list[RootFile]:
    size = storage.file_bytes(root)
    if size is not None:
        return [RootFile(storage.name(root), root, size)]
    if not storage.exists(root):
        raise no_such_place(root, KEY)
    found = [
        RootFile(path, storage.join(root, *path.split("/")), n_bytes)
        for path, n_bytes in storage.files_below(root).items()
        if suffix_of(path) in suffixes and not any(map(is_hidden, path.split("/")))
    ]
    return sorted(found, key=lambda each: (natural_key(each.path), each.path))
