"""Manifests: a file that names audio files, one a line (`ttt.files.manifests`)."""

from __future__ import annotations

from ttt.errors import UserError
from ttt.files.manifests import Line, read_manifest
from ttt.snac.cache.inputs import ClipInput
from ttt.snac.cache.roots.files import KEY, Listing
from ttt.snac.cache.speakers import rule_name, with_speaker


def list_manifest(place: str, speaker: str | None) -> Listing:
    """The files that a manifest names, in its order; a line that names none is an input with a
    problem. Whether the files are there is found by who reads them.

    Raises UserError as `read_manifest` does, and for a rule that a plain list cannot follow.
    """
    manifest = read_manifest(place, KEY)
    if speaker is not None and rule_name(speaker, "json") and not manifest.is_json:
        raise UserError(
            f"{place}: is a plain list of paths, of which speaker: {speaker} reads none"
        )
    inputs = [_clip(line, speaker) for line in manifest.lines]
    wrong = [clip.problem_note for clip in inputs if not clip.source]
    words = f"{len(inputs) - len(wrong):,} files, of {len(inputs):,} lines"
    return Listing(inputs, words, notes=tuple(wrong[:_NOTES]))


_NOTES = 5
"""More lines without a file are in the manifest of the cache alone."""


def _clip(line: Line, speaker: str | None) -> ClipInput:
    if line.problem is not None:
        return ClipInput(line.name, problem="unreadable", problem_note=line.problem)
    clip = ClipInput(line.name, source=line.place)
    if key := rule_name(speaker, "json"):
        return with_speaker(clip, line.entry.get(key), f"speaker: line {line.number} has no {key}")
    return clip
