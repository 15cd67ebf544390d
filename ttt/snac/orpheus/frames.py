"""Frames of seven tokens out of a stream of ids or text, damaged ones named, none moved.

A token says its own place in the frame, so the reader never loses its step: whatever stands
between two whole frames (tokens in sequence from place 0 to place 6) is damage and counted as the
frames that it was. Ids that are no audio may stand between the tokens; they are passed over where
the frame around them is whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ttt.snac.config import ORPHEUS_BASE, ORPHEUS_ORDER
from ttt.snac.geometry import CodeGeometry

Tokens = int | str | Iterable[int] | Iterable[str] | np.ndarray | Tensor
"""One id, ids, or text; text may come in pieces that cut a token anywhere."""

_GEOMETRY = CodeGeometry.preset("snac_24khz")
CODES_PER_PLACE = _GEOMETRY.codebook_size
"""Ids of one place of a frame: 4,096."""
PLACES = _GEOMETRY.codes_per_coarse
"""Tokens of a frame: 7."""


@dataclass(frozen=True)
class BadFrame:
    """A frame that is left out."""

    number: int
    """From 0, over whole and damaged frames of the utterance."""
    reason: str
    """In words, such as `tokens of the places 0 1 3 4 5 6 where 0 to 6 belong`."""

    def __str__(self) -> str:
        return f"frame {self.number}: {self.reason}"


class FrameReader:
    """Takes an utterance's tokens as they come and gives its whole frames."""

    def __init__(
        self,
        base: int = ORPHEUS_BASE,
        order: Sequence[int] = ORPHEUS_ORDER,
        codebook_size: int = CODES_PER_PLACE,
    ) -> None:
        self.base = base
        self._codebook_size = codebook_size  # A frame with a code beyond it is bad.
        self.bad: list[BadFrame] = []
        """The damaged frames so far."""
        self._columns = np.argsort(checked_order(order))
        self._ids = 0
        self._frames = 0
        self._begun = False
        self._text = ""
        self._first_text = ""  # The first words that came, of which an error shows some.
        self._frame: list[int] = []  # Tokens in sequence from place 0, and what is between them.
        self._codes: list[int] = []
        self._damage: list[int] = []  # All since the last whole frame and before `_frame`.

    def push(self, tokens: Tokens) -> np.ndarray:
        """Take tokens; the frames that they complete, int16 [n, 7], interleaved by scale.

        Raises ValueError, before any of them is taken, for what is no whole number and no text.
        """
        ids = list(self._ids_of(tokens))
        rows = [row for each in ids if (row := self._take(each)) is not None]
        return np.array(rows, dtype=np.int16).reshape(-1, PLACES)[:, self._columns]

    def finish(self) -> None:
        """Name what the end of the utterance leaves undone: half a frame, or half a token."""
        rest = self._frame
        while rest and self._place(rest[-1]) is None:
            rest.pop()
        if not rest:
            while self._damage and self._place(self._damage[-1]) is None:
                self._damage.pop()
        self._name_damage()
        if rest or self._text.startswith(_OPENING):
            self._leave_out(f"the utterance ends after {len(self._codes)} of its {PLACES} tokens")
        self._frame, self._codes, self._text = [], [], ""

    def refuse_no_token(self) -> None:
        """Raise ValueError where there were ids or words, and none of them a token of this base."""
        if self._ids and not self._begun:
            raise ValueError(
                f"none of its {self._ids:,} ids is one of {self._range}; give the base that the "
                "tokens are counted from"
            )
        if self._first_text and not self._ids and not self.bad:
            raise ValueError(
                f"text {self._first_text!r} holds no {_OPENING}N>; give ids, which are whole "
                "numbers, or text with such tokens"
            )

    @property
    def _range(self) -> str:
        return f"{self.base} to {self.base + PLACES * CODES_PER_PLACE - 1}"

    def _place(self, token: int) -> int | None:
        """The place in a frame that an id says it has; None for one that is no audio."""
        place = (token - self.base) // CODES_PER_PLACE
        return place if 0 <= place < PLACES else None

    def _take(self, token: int) -> list[int] | None:
        place = self._place(token)
        self._ids += 1
        if place is None:
            if self._frame:
                self._frame.append(token)
            elif self._begun:
                self._damage.append(token)
            return None
        self._begun = True
        if place != len(self._codes):
            self._damage += self._frame
            self._frame, self._codes = [], []
            if place != 0:
                self._damage.append(token)
                return None
        self._frame.append(token)
        self._codes.append((token - self.base) % CODES_PER_PLACE)
        if len(self._codes) < PLACES:
            return None
        self._name_damage()
        codes = self._codes
        self._frame, self._codes = [], []
        if max(codes) >= self._codebook_size:
            self._leave_out(f"code {max(codes)} is none of 0 to {self._codebook_size - 1}")
            return None
        self._frames += 1
        return codes

    def _name_damage(self) -> None:
        places = [self._place(token) for token in self._damage]
        for _ in range(_frames_in(places)):
            alien = next((t for t in self._damage if self._place(t) is None), None)
            if alien is not None:
                self._leave_out(f"id {alien} is none of {self._range}")
            else:
                found = " ".join(map(str, places[: 2 * PLACES]))
                self._leave_out(f"tokens of the places {found} where 0 to {PLACES - 1} belong")
        self._damage = []

    def _leave_out(self, reason: str) -> None:
        self.bad.append(BadFrame(self._frames, reason))
        self._frames += 1

    def _ids_of(self, tokens: Any) -> Iterator[int]:
        if isinstance(tokens, str):
            yield from self._ids_in(tokens)
        elif isinstance(tokens, Tensor | np.ndarray | np.generic):
            yield from _ids_in_array(tokens.cpu().numpy() if isinstance(tokens, Tensor) else tokens)
        elif isinstance(tokens, Iterable):
            for each in tokens:
                yield from self._ids_of(each)
        elif isinstance(tokens, int) and not isinstance(tokens, bool):
            yield tokens
        else:
            raise ValueError(f"{tokens!r} is no token; give ids, which are whole numbers, or text")

    def _ids_in(self, piece: str) -> Iterator[int]:
        """The ids in text so far; a token that is not yet whole is kept for the next piece."""
        text, done = self._text + piece, 0
        self._first_text = self._first_text or piece.strip()[:_SHOWN_CHARACTERS]
        for found in _TOKEN.finditer(text):
            number, done = found[1], found.end()
            whole = number.isascii() and number.isdigit() and len(number) < _LONGEST_NUMBER
            yield first_text_number(self.base) + int(number) if whole else _NO_ID
        rest = text[done:]
        opened = rest.rfind("<")
        begun = rest[opened:] if opened >= 0 else ""
        may_end = _OPENING.startswith(begun) or begun.startswith(_OPENING)
        self._text = begun if begun and may_end and len(begun) < 2 * len(_OPENING) else ""


def checked_order(order: Sequence[int]) -> list[int]:
    """`order` as a list. Raises ValueError unless it names every column of a row once."""
    if sorted(order) != list(range(PLACES)):
        raise ValueError(
            f"an order names each column of a row once, 0 to {PLACES - 1}, got "
            f"{', '.join(map(str, order))}"
        )
    return list(order)


def first_text_number(base: int) -> int:
    """The id of `<custom_token_0>`: ten numbers of the text form are not audio."""
    return base - _TEXT_NUMBERS_BEFORE


def _frames_in(places: Sequence[int | None]) -> int:
    """How many frames a stretch of damage was.

    Where tokens were replaced it has as many ids as whole frames; else tokens were lost or came on
    top, and each token of place 0 begins a frame. Less than a frame of no audio at all is text.
    """
    if len(places) % PLACES == 0 or all(place is None for place in places):
        return len(places) // PLACES
    return max(1, round(len(places) / PLACES), places.count(0))


def _ids_in_array(array: Any) -> list[int]:
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"the array of tokens holds {array.dtype}; ids are whole numbers")
    if array.ndim > 2 or (array.ndim == 2 and len(array) != 1 and array.shape[1] != PLACES):
        raise ValueError(
            f"the array of tokens has shape {array.shape}; needed are the ids of one utterance, "
            "[n] or [n, 7]"
        )
    return array.flatten().tolist()


_TEXT_NUMBERS_BEFORE = 10
_OPENING = "<custom_token_"
_TOKEN = re.compile(r"<custom_token_([^<>]*)>")
_LONGEST_NUMBER = 18
_SHOWN_CHARACTERS = 40
_NO_ID = -(2**63)
"""Stands for a token of the text form without a number: no base reaches it."""
