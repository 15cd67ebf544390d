"""Where ZeroSpeech's sLM21 data set keeps its recordings: {lexical,syntactic}/{dev,test}/*.wav."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ttt.errors import UserError
from ttt.eval.gold import PAIR_KEYS, read_gold
from ttt.eval.pairs import Candidate, Utterance
from ttt.text_files import Row

_SPLITS = ("dev", "test")


def slm21_candidates(
    benchmark: str, root: Path, gold: Path | None
) -> Iterator[tuple[Row, Candidate]]:
    """Every row of the gold tables with its candidate, which has no strata yet.

    Args:
        benchmark: lexical or syntactic.
        root: the data set, one of its benchmarks, or one of a benchmark's splits.
        gold: a table that lies elsewhere; `root` is then the folder of its recordings.
    """
    for split, folder, table in _tables(benchmark, root, gold):
        for row in read_gold(table, benchmark):
            key = [row[column] for column in PAIR_KEYS[benchmark]]
            yield (
                row,
                Candidate(
                    split=split,
                    pair_id="/".join([split, *key]),
                    cluster_id="/".join([split, *key[:-1]]),  # The last column is the voice.
                    role="positive" if row["correct"] == "1" else "negative",
                    utterance=Utterance(
                        f"{split}/{row['filename']}", folder / f"{row['filename']}.wav"
                    ),
                    voice=row["voice"],
                ),
            )


def _tables(benchmark: str, root: Path, gold: Path | None) -> list[tuple[str, Path, Path]]:
    """(split, folder of recordings, gold table) of every split below a folder."""
    if gold is not None:
        return [(_split(root, gold.parent), root, gold)]
    if (root / "gold.csv").exists():
        return [(_split(root), root, root / "gold.csv")]
    above = root / benchmark if (root / benchmark).is_dir() else root
    tables = [(split, above / split, above / split / "gold.csv") for split in _SPLITS]
    there = [table for table in tables if table[2].exists()]
    if not there:
        raise UserError(f"{root}: has no gold.csv, nor {benchmark}/{{dev,test}}/gold.csv below it")
    return there


def _split(*folders: Path) -> str:
    return next((f.name for f in folders if f.name in _SPLITS), "unnamed")
