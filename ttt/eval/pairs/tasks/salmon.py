"""SALMon: a recording, and the same made inconsistent in voice, sentiment, room or background.

`<part>/sample_<i>_0.wav` is the consistent one, `<part>/sample_<i>_1.wav` the other. The root is
the data set or one of its parts. Stratum: the part.

Source: github.com/slp-rl/salmon.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ttt.eval.pairs.find import Candidate, LeftOut, Utterance
from ttt.files.walk import find_files

TITLE = "SALMon"
HAS_GOLD = False

_NAME = re.compile(r"sample_(\d+)_([01])\.wav", re.ASCII | re.IGNORECASE)


def candidates(root: Path, gold: Path | None) -> Iterator[Candidate | LeftOut]:
    """Every recording whose name is a sample's."""
    for found in find_files(root, {".wav"}):
        path = root / found.path
        if match := _NAME.fullmatch(path.name):
            # A part's name is its folder's, under which it was found or, at the root, its own.
            part = path.parent.name if "/" in found.path else root.resolve().name
            yield Candidate(
                split="all",
                pair_id=f"{part}/{match[1]}",
                cluster_id=f"{part}/{match[1]}",
                role="positive" if match[2] == "0" else "negative",
                utterance=Utterance(f"{part}/{path.name}", path),
                problem=found.problem,
                strata={"part": part},
            )
        elif found.problem is not None:
            yield LeftOut("all", found.path, f"{found.path} {found.problem}")
