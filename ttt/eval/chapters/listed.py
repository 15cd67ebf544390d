"""Where chapters may lie: the files of a folder, or those that a manifest names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ttt import storage
from ttt.errors import UserError
from ttt.files.manifests import read_manifest
from ttt.files.walk import FoundFile, find_files, natural_key


@dataclass(frozen=True)
class Listed:
    """The files of a folder or manifest, in natural order."""

    below: str
    """What is put before a file's path, if that is not absolute."""
    files: list[FoundFile]
    speakers: dict[str, str]
    """Path -> who speaks, where the manifest says so."""

    def place(self, path: str) -> str:
        """Where a file lies."""
        return path if path.startswith("/") else self.below + path


def list_folder(root: str, suffixes: set[str]) -> Listed:
    """The files below a folder. Raises UserError where there are none."""
    found = find_files(root, suffixes)
    if not found:
        raise UserError(f"{root}: holds no audio ({', '.join(sorted(suffixes))})")
    # Tens of thousands of files: their paths stay text, which costs a tenth of what Path does.
    return Listed(str(Path(root) / "_").removesuffix("_"), found, {})


def list_manifest(place: str) -> Listed:
    """The files that a manifest names, and who speaks in them where its lines have a `speaker`.

    A line without a file, and one whose file is missing, is a file with a problem. Raises UserError
    as `read_manifest` does, and for a file that is named twice.
    """
    first: dict[str, int] = {}
    found: list[FoundFile] = []
    speakers: dict[str, str] = {}
    for line in read_manifest(place, "data.root").lines:
        if first.setdefault(line.name, line.number) != line.number:
            raise UserError(
                f"{place}: line {line.number} names {line.name} again, as line {first[line.name]} "
                "does; name each file once"
            )
        problem = None if line.problem is None else line.problem.partition(": ")[2]
        if problem is None and not storage.is_local(line.place):
            problem = "lies at a URI, and chapters are read from disks: copy it"
        elif problem is None and not os.path.isfile(line.place):
            problem = "no such file"
        found.append(FoundFile(line.name, problem))
        speaker = line.entry.get("speaker")
        if isinstance(speaker, str | int) and not isinstance(speaker, bool) and str(speaker):
            speakers[line.name] = str(speaker)
    found.sort(key=lambda each: (natural_key(each.path), each.path))
    return Listed(os.path.join(storage.parent(place), ""), found, speakers)
