"""SALMon: a recording, and the same made inconsistent in voice, sentiment, room or background.

`<part>/sample_<i>_0.wav` is the consistent one, `<part>/sample_<i>_1.wav` the other. The root is
the data set or one of its parts. Stratum: the part.

Source: github.com/slp-rl/salmon.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ttt.eval.pairs import Candidate, Utterance

TITLE = "SALMon"
HAS_GOLD = False

_NAME = re.compile(r"sample_(\d+)_([01])\.wav", re.ASCII)


def candidates(root: Path, gold: Path | None) -> Iterator[Candidate]:
    """Every recording whose name is a sample's."""
    for path in root.rglob("*.wav"):
        if match := _NAME.fullmatch(path.name):
            part = path.parent.resolve().name
            yield Candidate(
                split="all",
                pair_id=f"{part}/{match[1]}",
                cluster_id=f"{part}/{match[1]}",
                role="positive" if match[2] == "0" else "negative",
                utterance=Utterance(f"{part}/{path.name}", path),
                strata={"part": part},
            )
