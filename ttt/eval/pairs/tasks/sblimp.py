"""sBLIMP: a grammatical sentence and an ungrammatical one, read by several voices.

ZeroSpeech's `syntactic`, see `ttt.eval.pairs.zerospeech`. Strata: the type of the grammatical rule
and its subtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ttt.eval.pairs.find import Candidate
from ttt.eval.pairs.zerospeech import slm21_candidates

TITLE = "sBLIMP"
HAS_GOLD = True


def candidates(root: Path, gold: Path | None) -> Iterator[Candidate]:
    """Every recording of the gold tables."""
    for row, candidate in slm21_candidates("syntactic", root, gold):
        yield replace(candidate, strata={"type": row["type"], "subtype": row["subtype"]})
