"""Book chapters on disk: which there are, in which order, by whom, made of which files.

Four layouts are read; paths are relative to the root, and folders above the named ones (Libri-
Light's `small/`, LibriSpeech's `test-clean/`) only lengthen the chapter's id:

    chapters  speaker/book/chapter.flac, with a chapter.json beside it    Libri-Light
    cut       speaker/book/chapter_0000.flac, chapter_0001.flac, ...      cut_by_vad.py: pieces of
              a chapter without its pauses, joined here to one chapter again
    librispeech  speaker/chapter/speaker-chapter-0000.flac                LibriSpeech(-Long): every
              file is a chapter of its own
    flat      *.flac in one folder; the speaker is the "speaker" of the .json beside it, if any

Folders are walked by `ttt.files.walk`: through links, past hidden files. A manifest names the files
in place of a folder, whose layout is found in their paths likewise. A file that cannot be read, a
link to nothing, spans that make no sense: each is an unreadable chapter with its reason.

Sources: libri-light data_preparation (README.md, cut_by_vad.py); openslr.org/12.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from ttt import storage
from ttt.audio import Piece, read_header
from ttt.errors import UserError
from ttt.eval.chapters.choose import at_most, chosen
from ttt.eval.chapters.listed import Listed, list_folder, list_manifest
from ttt.eval.chapters.voice_activity import description_beside, read_speaker, read_voice_activity
from ttt.eval.config import ChapterConfig
from ttt.files.errors import reading
from ttt.files.walk import FoundFile
from ttt.files.walk import natural_key as natural_key

UNKNOWN_SPEAKER = "unknown"
"""Chapters of nobody in particular: statistics treat them as one speaker."""


@dataclass(frozen=True)
class Chapter:
    """What one evaluation streams without a break."""

    chapter_id: str
    """Unique, of path parts: speaker/book/name, or .../first..last for joined ones."""
    speaker: str
    book: str
    pieces: tuple[Piece, ...]
    """In order; where one follows another is a join."""
    notes: tuple[str, ...] = ()
    """What was made of its description, where that was not taken as it stands."""

    @property
    def files(self) -> tuple[str, ...]:
        """The audio files it is made of, each once, in order."""
        return tuple(dict.fromkeys(piece.path for piece in self.pieces))

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return sum(piece.seconds for piece in self.pieces)


@dataclass(frozen=True)
class Unreadable:
    """A chapter that cannot be evaluated."""

    chapter_id: str
    reason: str


def find_chapters(config: ChapterConfig) -> tuple[list[Chapter], list[Unreadable]]:
    """The chapters of `config.root` in natural order, and those that cannot be read, with the
    reason; of several roots one root after the other, ids beginning with its name.

    Reads the header of every file and no audio. With `concatenate_seconds` an unreadable chapter
    ends the joined one before it, so that a join never hides a gap.

    Raises:
        UserError: no such folder, no audio in it, a damaged manifest, chapters of the same id,
            nothing left by the filters, or a name of `speakers` or `books` that does not occur.
    """
    roots = config.roots
    sources = [source for root in roots for source in _sources(root, config.layout, len(roots) > 1)]
    _refuse_same_names(sources)
    where = ", ".join(roots)
    sources = chosen(sources, config, where)
    read = [_read(source, config.pauses) for source in sources]
    if config.concatenate_seconds is not None:
        read = _concatenate(read, config.concatenate_seconds)
    chapters = [chapter for chapter in read if isinstance(chapter, Chapter)]
    unreadable = [chapter for chapter in read if isinstance(chapter, Unreadable)]
    chapters = [chapter for chapter in chapters if chapter.seconds >= config.min_seconds]
    if not chapters and not unreadable:
        raise UserError(f"{where}: no chapter lasts min_seconds={config.min_seconds:g} s")
    return at_most(chapters, config.max_chapters), unreadable


_SUFFIXES = {".flac", ".wav", ".ogg", ".opus", ".mp3"}
_PIECE = re.compile(r"(.+)_\d{4,}", re.ASCII)
_LIBRISPEECH = re.compile(r"(\d+)-\d+[-_]\d+", re.ASCII)


@dataclass(frozen=True)
class _Source:
    chapter_id: str
    speaker: str
    book: str
    paths: tuple[str, ...]
    problem: str | None
    """Why it cannot be read, where that is known before it is opened."""


def _sources(root: str, layout: str, several: bool) -> list[_Source]:
    if Path(root).is_file():
        listed = list_manifest(storage.absolute(root))
    elif Path(root).is_dir():
        listed = list_folder(root, _SUFFIXES)
    else:
        raise UserError(f"{root}: no such folder of chapters, and no manifest of them")
    layout = _detect(listed) if layout == "auto" else layout
    sources = [_source(listed, group, layout) for group in _grouped(listed, layout)]
    if not several:
        return sources
    name = storage.name(root)
    return [replace(each, chapter_id=f"{name}/{each.chapter_id}") for each in sources]


def _detect(listed: Listed) -> str:
    paths = [each.path for each in listed.files if each.problem is None]
    if paths and not any("/" in path for path in paths):
        return "flat"
    if all(_LIBRISPEECH.fullmatch(_stem(path)) for path in paths):
        return "librispeech"
    # cut_by_vad.py writes no .json; a chapter whose own name ends in four digits has one.
    if all(
        _PIECE.fullmatch(_stem(path)) and not description_beside(Path(listed.place(path))).exists()
        for path in paths
    ):
        return "cut"
    return "chapters"


def _grouped(listed: Listed, layout: str) -> list[tuple[FoundFile, ...]]:
    """Files that make one chapter."""
    if layout != "cut":
        return [(each,) for each in listed.files]
    groups: dict[str, list[FoundFile]] = defaultdict(list)
    for each in listed.files:
        match = _PIECE.fullmatch(_stem(each.path))
        if match is None and each.problem is None:
            raise UserError(
                f"{listed.place(each.path)}: not named like a piece (chapter_0000), as layout: cut "
                "needs"
            )
        folder = each.path.rpartition("/")[0]
        groups[each.path if match is None else f"{folder}/{match[1]}"].append(each)
    return [tuple(group) for group in groups.values()]


def _source(listed: Listed, group: tuple[FoundFile, ...], layout: str) -> _Source:
    paths = tuple(listed.place(each.path) for each in group)
    folder, stem = group[0].path.rpartition("/")[0], _stem(group[0].path)
    if layout == "cut" and _PIECE.fullmatch(stem):
        stem = stem.rpartition("_")[0]
    above, _, book = folder.rpartition("/")
    speaker = above.rpartition("/")[2] or book
    wrong = (
        f"{path}: {each.problem}" for path, each in zip(paths, group, strict=True) if each.problem
    )
    problem = next(wrong, None)
    librispeech = _LIBRISPEECH.fullmatch(stem)
    if group[0].path in listed.speakers:
        speaker = listed.speakers[group[0].path]
    elif librispeech is not None:
        speaker = librispeech[1]
    elif not folder and problem is None:
        try:
            speaker = _speaker_beside(Path(paths[0]))
        except UserError as error:
            speaker, problem = UNKNOWN_SPEAKER, str(error)
    return _Source(f"{folder}/{stem}".lstrip("/"), speaker, book, paths, problem)


def _stem(path: str) -> str:
    return os.path.splitext(path.rpartition("/")[2])[0]


def _speaker_beside(path: Path) -> str:
    beside = description_beside(path)
    return read_speaker(beside, UNKNOWN_SPEAKER) if beside.exists() else UNKNOWN_SPEAKER


def _refuse_same_names(sources: list[_Source]) -> None:
    seen: dict[str, str] = {}
    for source in (source for source in sources if source.problem is None):
        other = seen.setdefault(source.chapter_id, source.paths[0])
        if other == source.paths[0] and other is not source.paths[0]:
            raise UserError(f"{other}: is found twice; let data.root name each place once")
        if other is not source.paths[0]:
            raise UserError(
                f"{source.paths[0]}: the same chapter as {_shown(other, source.paths[0])} by its "
                "name; keep one of them"
            )


def _shown(place: str, beside: str) -> str:
    """A file's name; its whole path where it lies in another folder than the one beside it."""
    same = os.path.dirname(place) == os.path.dirname(beside)
    return os.path.basename(place) if same else place


def _read(source: _Source, pauses: str) -> Chapter | Unreadable:
    pieces: list[Piece] = []
    notes: list[str] = []
    try:
        if source.problem is not None:
            raise UserError(source.problem)
        for path in source.paths:
            with reading(path, "audio"):
                pieces += _pieces(path, pauses, notes)
    except UserError as error:
        return Unreadable(source.chapter_id, str(error))
    return Chapter(source.chapter_id, source.speaker, source.book, tuple(pieces), tuple(notes))


def _pieces(path: str, pauses: str, notes: list[str]) -> list[Piece]:
    header = read_header(path)
    if header.samples == 0:
        raise UserError(f"{path}: holds no audio")
    if pauses == "keep":
        return [Piece(path, 0, header.samples, header.rate)]
    spans = read_voice_activity(description_beside(Path(path)), header.rate, header.samples)
    if spans.changed is not None:
        notes.append(spans.changed)
    return [Piece(path, start, stop, header.rate) for start, stop in spans.samples]


def _concatenate(read: list[Chapter | Unreadable], seconds: float) -> list[Chapter | Unreadable]:
    """Join chapters of one book in a row until they last `seconds`; the rest stays shorter."""
    done: list[Chapter | Unreadable] = []
    for chapter in read:
        last = done[-1] if done else None
        if (
            isinstance(chapter, Chapter)
            and isinstance(last, Chapter)
            and _folder(last) == _folder(chapter)
            and last.seconds < seconds
        ):
            first_name = last.chapter_id.rpartition("/")[2].partition("..")[0]
            name = f"{first_name}..{chapter.chapter_id.rpartition('/')[2]}"
            joined_id = "/".join([*_folder(last), name])
            done[-1] = replace(
                last,
                chapter_id=joined_id,
                pieces=last.pieces + chapter.pieces,
                notes=last.notes + chapter.notes,
            )
        else:
            done.append(chapter)
    return done


def _folder(chapter: Chapter) -> tuple[str, ...]:
    return tuple(chapter.chapter_id.split("/")[:-1])
