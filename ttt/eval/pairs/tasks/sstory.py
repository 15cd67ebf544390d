"""Spoken StoryCloze: a story of five sentences, and the same with another last sentence.

`<number>_<id>_correct.wav` and `<number>_<id>_incorrect.wav`, in any folder below the root; the id
makes the pair.

Source: github.com/slp-rl/SpokenStoryCloze.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ttt.eval.pairs.find import Candidate, LeftOut, Utterance
from ttt.files.walk import find_files

TITLE = "Spoken StoryCloze"
HAS_GOLD = False

_NAME = re.compile(r"(\d+)_([a-f0-9\-]+)_(correct|incorrect)\.wav", re.ASCII | re.IGNORECASE)


def candidates(root: Path, gold: Path | None) -> Iterator[Candidate | LeftOut]:
    """Every recording whose name is a story's."""
    for found in find_files(root, {".wav"}):
        path = root / found.path
        if match := _NAME.fullmatch(path.name):
            yield Candidate(
                split="all",
                pair_id=match[2],
                cluster_id=match[2],
                role="positive" if match[3].lower() == "correct" else "negative",
                utterance=Utterance(found.path, path),
                problem=found.problem,
            )
        elif found.problem is not None:
            yield LeftOut("all", found.path, f"{found.path} {found.problem}")
