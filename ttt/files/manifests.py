"""Manifests: a file that names audio files, as JSON objects or bare paths, one a line.

NeMo's name them in `audio_filepath`, moshi-finetune's in `path`. Paths are relative to the
manifest; URIs and absolute paths stand for themselves.
"""

from __future__ import annotations

import json
import os
import posixpath
from dataclasses import dataclass, field
from typing import Any

from ttt import storage, uris
from ttt.errors import UserError
from ttt.files.errors import cause, reading
from ttt.files.text import decoded
from ttt.files.walk import suffix_of


@dataclass(frozen=True)
class Line:
    """A line of a manifest."""

    number: int
    """From 1."""
    name: str
    """The file's path below the manifest's folder, of a file elsewhere its whole path; without a
    file the manifest's name and the number."""
    place: str = ""
    """Absolute path or URI of the file; empty where the line names none."""
    entry: dict[str, Any] = field(default_factory=dict)
    """The JSON object; empty in a plain list."""
    problem: str | None = None
    """Why the line names no file, in a sentence with the manifest's name."""


@dataclass(frozen=True)
class Manifest:
    """What a manifest names, in its order."""

    is_json: bool
    lines: list[Line]


def read_manifest(place: str, key: str) -> Manifest:
    """The lines of a manifest but the empty ones; whether files are there is not looked at.

    `key` of the configuration names the manifest, for sentences. Raises UserError for a manifest
    that is missing or no text, for one that cuts stretches out of files, and when no line at all
    names a file.
    """
    numbered = [
        (number, line)
        for number, text in enumerate(_text(place, key).split("\n"), start=1)
        if (line := text.strip())
    ]
    is_json = suffix_of(storage.name(place)) in _JSON_SUFFIXES or (
        bool(numbered) and numbered[0][1].startswith("{")
    )
    lines = [
        _json_line(place, number, line) if is_json else _line(place, number, line, {})
        for number, line in numbered
    ]
    if not any(line.place for line in lines):
        why = lines[0].problem if lines else "it is empty"
        raise UserError(f"{place}: no line names an audio file ({why})")
    return Manifest(is_json, lines)


def no_such_place(place: str, key: str) -> UserError:
    """For a place that is not there, which `key` of the configuration names."""
    return UserError(f"{place}: no such file or folder; correct {key}")


_PATH_KEYS = ("audio_filepath", "path")
_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")


def _text(place: str, key: str) -> str:
    if storage.is_local(place) and storage.local_path(place).is_dir():
        raise UserError(f"{place}: is a folder; name the manifest in it, or set input.kind")
    try:
        with reading(place):
            return decoded(storage.read_bytes(place))
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise no_such_place(place, key) from error
        raise


def _json_line(place: str, number: int, text: str) -> Line:
    try:
        entry: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _without_file(place, number, f"is no JSON ({cause(error)})")
    if not isinstance(entry, dict):
        return _without_file(place, number, "is no JSON object")
    path = next((entry[key] for key in _PATH_KEYS if entry.get(key)), None)
    if not isinstance(path, str):
        there = ", ".join(map(str, entry)) or "nothing"
        return _without_file(place, number, f"has neither audio_filepath nor path, but {there}")
    if entry.get("offset"):
        raise UserError(
            f"{place}: line {number} has an offset of {entry['offset']} s, and stretches of a file "
            "are not cut here: cut them into files, or take the offsets out to cache whole files"
        )
    return _line(place, number, path, entry)


def _without_file(place: str, number: int, problem: str) -> Line:
    name = storage.name(place)
    return Line(number, f"{name}:{number}", problem=f"{name}: line {number} {problem}")


def _line(place: str, number: int, path: str, entry: dict[str, Any]) -> Line:
    folder = storage.parent(place)
    try:
        source = _resolved(folder, path)
    except UserError as error:
        return _without_file(place, number, f"names no file: {error}")
    return Line(number, _name(folder, source), source, entry)


def _resolved(folder: str, path: str) -> str:
    """Where a path of a manifest in `folder` leads."""
    uris.check(path)
    if uris.is_uri(path):
        return str(storage.local_path(path)) if uris.is_local(path) else path
    if storage.is_local(folder) or path.startswith(("/", "~")):
        # No link is followed: the same file has the same name on every node.
        return os.path.normpath(os.path.join(folder, os.path.expanduser(path)))
    parts = posixpath.normpath(path).split("/")
    while parts[0] == "..":
        folder, parts = storage.parent(folder), parts[1:]
    return storage.join(folder, *parts)


def _name(folder: str, source: str) -> str:
    """The path below the manifest's folder; of a file elsewhere its whole path."""
    inside, above = (
        uris.parse(place).inside if uris.is_uri(place) else place for place in (source, folder)
    )
    return inside.removeprefix(above.rstrip("/") + "/")
