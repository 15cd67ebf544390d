"""Benchmarks made of pairs: which recording should a model find the more probable one?

sWUGGY (a word and a non-word), sBLIMP (a grammatical sentence and an ungrammatical one), spoken
and topic StoryCloze (a story with its own ending and with another), SALMon (a recording and the
same made inconsistent). `find_pairs` reads a published layout; each task is one file of
`ttt.eval.tasks`, which says what its layout is.

    found = find_pairs("swuggy", "sLM21/lexical")
    found.pairs, found.left_out
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

from ttt.errors import UserError
from ttt.eval import tasks


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
    """What should have been a pair and is none."""

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


class _Task(Protocol):
    """What a module of `ttt.eval.tasks` has."""

    TITLE: str
    """The benchmark's own name."""

    def find(self, root: Path, gold: Path | None) -> PairSet:
        """The pairs below a folder."""
        ...


TASKS = tuple(module.name for module in pkgutil.iter_modules(tasks.__path__))
"""Names of all tasks."""


def find_pairs(task: str, root: str | Path, gold: str | Path | None = None) -> PairSet:
    """The pairs of a task below a folder, and what was left out, with its reason.

    Looks at names, gold tables and whether the audio is there; reads no audio.

    Args:
        gold: the table of a task that has one, where it does not lie at its published place.

    Raises:
        UserError: no such task or folder, a damaged table, a table for a task that has none, or
            nothing that could be a pair.
    """
    _refuse_unknown(task)
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of {task}'s recordings")
    found = _module(task).find(root, Path(gold) if gold is not None else None)
    if not found.pairs and not found.left_out:
        raise UserError(
            f"{root}: holds nothing that is laid out as {task}; see ttt/eval/tasks/{task}.py"
        )
    return found


def task_title(task: str) -> str:
    """The benchmark's own name, such as sWUGGY."""
    _refuse_unknown(task)
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


def _refuse_unknown(task: str) -> None:
    if task not in TASKS:
        raise UserError(f"{task}: no such task; there are {', '.join(TASKS)}")


def _module(task: str) -> _Task:
    return cast(_Task, importlib.import_module(f"{tasks.__name__}.{task}"))
