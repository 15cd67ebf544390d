"""Manifests: a file that names audio files, as JSON objects or bare paths, one a line.

NeMo's name them in `audio_filepath`, moshi-finetune's in `path`. Paths are relative to the
manifest; URIs and absolute paths stand for themselves.
"""

from __future__ import annotations

import json
import os
import posixpath
from typing import Any

from ttt import storage, uris
from ttt.errors import UserError
from ttt.files.errors import cause, reading
from ttt.files.text import decoded
from ttt.files.walk import suffix_of
from ttt.snac.cache.inputs import ClipInput
from ttt.snac.cache.roots.files import Listing, no_such_place
from ttt.snac.cache.speakers import rule_name, with_speaker

_PATH_KEYS = ("audio_filepath", "path")
_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")


def list_manifest(place: str, speaker: str | None) -> Listing:
    """The files that a manifest names, in its order; a line that names none is an input with a
    problem. Whether the files are there is found by who reads them.

    Raises UserError for a manifest that is missing or no text, for one that cuts stretches out of
    files, and when no line at all names a file.
    """
    lines = [
        (number, line)
        for number, text in enumerate(_text(place).split("\n"), start=1)
        if (line := text.strip())
    ]
    is_json = suffix_of(storage.name(place)) in _JSON_SUFFIXES or (
        bool(lines) and lines[0][1].startswith("{")
    )
    if speaker is not None and rule_name(speaker, "json") and not is_json:
        raise UserError(
            f"{place}: is a plain list of paths, of which speaker: {speaker} reads none"
        )
    inputs = [
        _json_clip(place, number, line, speaker) if is_json else _clip(place, number, line)
        for number, line in lines
    ]
    if not any(clip.source for clip in inputs):
        why = inputs[0].problem_note if inputs else "it is empty"
        raise UserError(f"{place}: no line names an audio file ({why})")
    wrong = [clip.problem_note for clip in inputs if not clip.source]
    words = f"{len(inputs) - len(wrong):,} files, of {len(lines):,} lines"
    return Listing(inputs, words, notes=tuple(wrong[:_NOTES]))


_NOTES = 5
"""More lines without a file are in the manifest of the cache alone."""


def _text(place: str) -> str:
    if storage.is_local(place) and storage.local_path(place).is_dir():
        raise UserError(f"{place}: is a folder; name the manifest in it, or set input.kind")
    try:
        with reading(place):
            return decoded(storage.read_bytes(place))
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise no_such_place(place) from error
        raise


def _json_clip(place: str, number: int, line: str, speaker: str | None) -> ClipInput:
    try:
        entry: Any = json.loads(line)
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
    clip = _clip(place, number, path)
    if clip.problem is None and (key := rule_name(speaker, "json")):
        return with_speaker(clip, entry.get(key), f"speaker: line {number} has no {key}")
    return clip


def _without_file(place: str, number: int, problem: str) -> ClipInput:
    name = storage.name(place)
    note = f"{name}: line {number} {problem}"
    return ClipInput(f"{name}:{number}", problem="unreadable", problem_note=note)


def _clip(place: str, number: int, path: str) -> ClipInput:
    folder = storage.parent(place)
    try:
        source = _resolved(folder, path)
    except UserError as error:
        return _without_file(place, number, f"names no file: {error}")
    return ClipInput(_clip_id(folder, source), source=source)


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


def _clip_id(folder: str, source: str) -> str:
    """The path below the manifest's folder; of a file elsewhere its whole path."""
    inside, above = (
        uris.parse(place).inside if uris.is_uri(place) else place for place in (source, folder)
    )
    return inside.removeprefix(above.rstrip("/") + "/")
