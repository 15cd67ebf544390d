"""Which chapters of all that there are: by speaker, by book, and a few of many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from typing import Protocol, TypeVar

from ttt.errors import UserError
from ttt.eval.config import ChapterConfig
from ttt.files.walk import natural_key


class Spoken(Protocol):
    """A chapter, whatever else is known of it."""

    @property
    def speaker(self) -> str: ...
    @property
    def book(self) -> str: ...


S = TypeVar("S", bound=Spoken)


def chosen(chapters: Sequence[S], config: ChapterConfig, where: str) -> list[S]:
    """Those by the speakers and out of the books that are asked for.

    Raises UserError for a name that does not occur in `where`.
    """
    for key, wanted, there in (
        ("speakers", config.speakers, {each.speaker for each in chapters}),
        ("books", config.books, {each.book for each in chapters}),
    ):
        if missing := sorted(set(wanted) - there):
            some = ", ".join(sorted(there, key=natural_key)[:10])
            raise UserError(f"{where}: {key} {', '.join(missing)} not found; there are {some}")
    return [
        each
        for each in chapters
        if (not config.speakers or each.speaker in config.speakers)
        and (not config.books or each.book in config.books)
    ]


def at_most(chapters: Sequence[S], count: int | None) -> list[S]:
    """`count` of them, in their order: one of each speaker, then a second of each, and so on.

    What few chapters can tell is by speaker. None takes all.
    """
    if count is None:
        return list(chapters)
    by_speaker: dict[str, list[int]] = defaultdict(list)
    for place, each in enumerate(chapters):
        by_speaker[each.speaker].append(place)
    turns = [place for turn in zip_longest(*by_speaker.values()) for place in turn]
    kept = set([place for place in turns if place is not None][:count])
    return [each for place, each in enumerate(chapters) if place in kept]
