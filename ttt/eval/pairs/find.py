"""Benchmarks made of pairs: which recording should a model find the more probable one?

sWUGGY (a word and a non-word), sBLIMP (a grammatical sentence and an ungrammatical one), spoken
and topic StoryCloze (a story with its own ending and with another), SALMon (a recording and the
same made inconsistent). `find_pairs` reads a published layout; each task is one file of
`ttt.eval.pairs.tasks`, which says what its layout is. Pairs are made by key, never by position.

    found = find_pairs("swuggy", "sLM21/lexical")
    found.pairs, found.left_out
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, cast, get_args

from ttt.errors import UserError
from ttt.eval.pairs import tasks
from ttt.files.walk import natural_key, same_name_key, shown

Role = Literal["positive", "negative"]
"""Which half of a pair a recording is: the positive one should be the more probable."""


@dataclass(frozen=True)
class Utterance:
    """One recording."""

    item_id: str
    """Unique within its task."""
    audio: Path


@dataclass(frozen=True)
class Pair:
    """Two recordings, of which the positive one should be the more probable."""

    task: str
    split: str
    """Part of the data set, such as dev or test; it belongs to the name of every result."""
    pair_id: str
    """Unique within its task."""
    cluster_id: str
    """What pairs of the same content share: all voices of one word or sentence."""
    voice: str
    positive: Utterance
    negative: Utterance
    strata: Mapping[str, str]
    """Name -> group, such as type -> agreement; the first one stratifies a subsample."""


@dataclass(frozen=True)
class LeftOut:
    """A pair that is not whole, or that has no score."""

    split: str
    pair_id: str
    reason: str


@dataclass(frozen=True)
class PairSet:
    """The pairs of a task in natural order of their ids, whatever the disk's order is."""

    task: str
    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the pairs' ids: two runs with the same have scored the same pairs."""
        return hashlib.sha256("\n".join(pair.pair_id for pair in self.pairs).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One recording as a task finds it: half a pair, whose other half has the same pair_id."""

    split: str
    pair_id: str
    cluster_id: str
    role: Role
    utterance: Utterance
    voice: str = ""
    strata: Mapping[str, str] = field(default_factory=dict)
    """The pair takes those of its positive half."""
    problem: str | None = None
    """Why the recording cannot be read, where that is known before it is opened."""


class _Task(Protocol):
    """What a module of `ttt.eval.pairs.tasks` has."""

    TITLE: str
    HAS_GOLD: bool

    def candidates(self, root: Path, gold: Path | None) -> Iterable[Candidate | LeftOut]: ...


TASKS = tuple(module.name for module in pkgutil.iter_modules(tasks.__path__))
"""Names of all tasks."""


def find_pairs(task: str, root: str | Path, gold: str | Path | None = None) -> PairSet:
    """The pairs of a task below a folder, and what was left out, with its reason.

    Looks at names, gold tables and whether the audio is there; reads no audio.

    Args:
        gold: the table of a task that has one, where it does not lie at its published place.

    Raises:
        UserError: no such task or folder, a damaged table, a table for a task that has none, or
            not one pair.
    """
    module = _module(task)
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of {module.TITLE} recordings")
    if gold is not None and not module.HAS_GOLD:
        raise UserError(f"{gold}: {module.TITLE} has no gold table; its file names say it all")
    halves: dict[str, list[Candidate]] = defaultdict(list)
    pairs: list[Pair] = []
    left_out: list[LeftOut] = []
    for candidate in module.candidates(root, None if gold is None else Path(gold)):
        if isinstance(candidate, LeftOut):
            left_out.append(candidate)
        else:
            halves[candidate.pair_id].append(candidate)
    on_disk = _OnDisk()
    for pair_id in sorted(sorted(halves), key=natural_key):  # 01 and 1 are equal to it.
        made = _pair(task, halves[pair_id], on_disk)
        if isinstance(made, Pair):
            pairs.append(made)
        else:
            left_out.append(made)
    if not pairs:
        why = (
            left_out[0].reason if left_out else f"see ttt/eval/pairs/tasks/{task}.py for its layout"
        )
        raise UserError(f"{root}: holds no pair of {module.TITLE} ({why})")
    return PairSet(task, tuple(pairs), tuple(left_out))


def task_title(task: str) -> str:
    """The benchmark's own name, such as sWUGGY."""
    return _module(task).TITLE


def subsample(found: PairSet, max_pairs: int | None, seed: int) -> PairSet:
    """At most `max_pairs` pairs, drawn from every stratum in proportion; None takes all.

    A stratum is a split and a group of the pairs' first strata; each one is represented as long
    as there is room. The same seed draws the same pairs, and fewer of them are among more of them.
    """
    if max_pairs is None:
        return found
    strata: dict[tuple[str, ...], list[Pair]] = {}
    for pair in sorted(found.pairs, key=lambda pair: _lot(seed, pair)):
        strata.setdefault((pair.split, *list(pair.strata.values())[:1]), []).append(pair)
    turns = [
        (place > 0, (place + 0.5) / len(drawn), _lot(seed, pair), pair.pair_id)
        for drawn in strata.values()
        for place, pair in enumerate(drawn)
    ]
    kept = {pair_id for *_, pair_id in sorted(turns)[:max_pairs]}
    return replace(found, pairs=tuple(pair for pair in found.pairs if pair.pair_id in kept))


def _lot(seed: int, pair: Pair) -> str:
    return hashlib.sha256(f"{seed}/{pair.pair_id}".encode()).hexdigest()


def _module(task: str) -> _Task:
    if task not in TASKS:
        raise UserError(f"{task}: no such task; there are {', '.join(TASKS)}")
    return cast(_Task, importlib.import_module(f"{tasks.__name__}.{task}"))


class _OnDisk(dict[Path, dict[str, list[str]]]):
    """Folder -> its names by `same_name_key`: one look per folder, not one per file of a hundred
    thousand."""

    def __missing__(self, folder: Path) -> dict[str, list[str]]:
        try:
            names = os.listdir(folder) if folder.is_dir() else []
        except OSError as error:
            raise UserError(f"{folder}: cannot be listed ({error.strerror})") from error
        self[folder] = defaultdict(list)
        for name in names:
            self[folder][same_name_key(shown(name))].append(name)
        return self[folder]

    def find(self, path: Path) -> Path | None:
        """The file that `path` means: itself, else the only one that differs in case or accents."""
        names = self[path.parent].get(same_name_key(path.name), [])
        if path.name in names:
            return path
        return path.with_name(names[0]) if len(names) == 1 else None


def _pair(task: str, halves: list[Candidate], on_disk: _OnDisk) -> Pair | LeftOut:
    first = halves[0]
    sides = {role: [half for half in halves if half.role == role] for role in get_args(Role)}
    for role, side in sides.items():
        if not side:
            return LeftOut(first.split, first.pair_id, f"no {role} recording")
        if len(side) > 1:
            names = ", ".join(sorted(half.utterance.item_id for half in side))
            reason = f"{len(side)} {role} recordings: {names}"
            return LeftOut(first.split, first.pair_id, reason)
    found: dict[Role, Utterance] = {}
    for half in halves:
        utterance = half.utterance
        if half.problem is not None:
            reason = f"{utterance.audio.name} {half.problem}"
            return LeftOut(first.split, first.pair_id, reason)
        audio = on_disk.find(utterance.audio)
        if audio is None:
            reason = f"no such recording: {utterance.audio.name}"
            return LeftOut(first.split, first.pair_id, reason)
        found[half.role] = replace(utterance, audio=audio)
    (positive,) = sides["positive"]
    return Pair(
        task=task,
        split=positive.split,
        pair_id=positive.pair_id,
        cluster_id=positive.cluster_id,
        voice=positive.voice,
        positive=found["positive"],
        negative=found["negative"],
        strata=positive.strata,
    )
