"""sWUGGY: a word and a non-word that differs in a few phones, read by several voices.

ZeroSpeech's `lexical`, see `ttt.eval.pairs.zerospeech`. Strata: the word's frequency band, its
vocabulary (in or oov; published numbers are often of "in" alone) and its length in phones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ttt.eval.pairs.find import Candidate
from ttt.eval.pairs.zerospeech import frequency_band, slm21_candidates
from ttt.files.text import Row

TITLE = "sWUGGY"
HAS_GOLD = True


def candidates(root: Path, gold: Path | None) -> Iterator[Candidate]:
    """Every recording of the gold tables."""
    for row, candidate in slm21_candidates("lexical", root, gold):
        yield replace(candidate, strata=_strata(row))


def _strata(row: Row) -> dict[str, str]:
    strata = {}
    if row.get("frequency"):
        band = frequency_band(int(float(row["frequency"])))
        strata = {"frequency": band, "vocabulary": "oov" if band == "oov" else "in"}
    if row.get("length"):
        strata["length"] = str(int(float(row["length"])))
    return strata
