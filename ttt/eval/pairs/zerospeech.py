"""ZeroSpeech 2021 (sLM21): its recordings, {lexical,syntactic}/{dev,test}/*.wav, and gold tables.

A gold table says which recordings there are, and which are correct:

    lexical    filename,id,voice,frequency,word,phones,length,correct
    syntactic  filename,id,voice,type,subtype,correct,transcription

One row per recording; correct is 1 for words and grammatical sentences. Two rows that differ in
`correct` alone are a pair, wherever they stand in the file.

Source: zerospeech.com/tasks/task_4, github.com/zerospeech/benchmarks (tasks/lm).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from ttt.errors import UserError
from ttt.eval.pairs.find import Candidate, Utterance
from ttt.files.text import MissingColumn, Row, read_table

PAIR_KEYS = {"lexical": ("id", "voice"), "syntactic": ("type", "subtype", "id", "voice")}
"""Columns that the two rows of a pair share."""

FREQUENCY_BANDS = ("oov", "1-5", "6-20", "21-100", ">100")
_BAND_ENDS = (1, 5, 20, 100)
_SPLITS = ("dev", "test")


def read_gold(path: Path, benchmark: str) -> list[Row]:
    """All rows of a gold table, file names without .wav.

    Raises:
        UserError: no such file, a column or value is missing, a name occurs twice, or `correct` is
            neither 0 nor 1.
    """
    needed = {"filename", "correct", *PAIR_KEYS[benchmark]}
    try:
        rows = read_table(path, needed)
    except MissingColumn as error:
        raise UserError(f"{path}: a gold table of {benchmark} needs {error}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable gold table ({error})") from error
    seen: set[str] = set()
    for row in rows:
        if absent := sorted(column for column in needed if not row[column]):
            raise UserError(f"{path}: a row ({row['filename']}) has no {absent[0]}")
        row["filename"] = row["filename"].removesuffix(".wav")
        if row["filename"] in seen:
            raise UserError(f"{path}: the file name {row['filename']} occurs twice")
        if row["correct"] not in ("0", "1"):
            raise UserError(f"{path}: {row['filename']} has correct={row['correct']}, not 0 or 1")
        for column in ("frequency", "length"):
            if (text := row.get(column)) and not _is_count(text):
                raise UserError(f"{path}: {row['filename']} has {column}={text}, not a count")
        seen.add(row["filename"])
    return rows


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


def frequency_band(frequency: int) -> str:
    """The official band of a word's count in LibriSpeech; 0 is out of vocabulary.

    The bands' names promise more than they hold: the official scripts count 5 to 6-20, 20 to
    21-100 and 100 to >100.
    """
    return FREQUENCY_BANDS[sum(frequency >= end for end in _BAND_ENDS)]


def _is_count(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and float(text) >= 0
    except ValueError:
        return False


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
