"""The gold tables of ZeroSpeech 2021 (sLM21): which recordings there are, and which are correct.

    lexical    filename,id,voice,frequency,word,phones,length,correct
    syntactic  filename,id,voice,type,subtype,correct,transcription

One row per recording; correct is 1 for words and grammatical sentences. Two rows that differ in
`correct` alone are a pair, wherever they stand in the file.

Source: zerospeech.com/tasks/task_4, github.com/zerospeech/benchmarks (tasks/lm).
"""

from __future__ import annotations

import math
from pathlib import Path

from ttt.errors import UserError
from ttt.text_files import MissingColumn, Row, read_table

PAIR_KEYS = {"lexical": ("id", "voice"), "syntactic": ("type", "subtype", "id", "voice")}
"""Columns that the two rows of a pair share."""

FREQUENCY_BANDS = ("oov", "1-5", "6-20", "21-100", ">100")
_BAND_ENDS = (1, 5, 20, 100)


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


def _is_count(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and float(text) >= 0
    except ValueError:
        return False


def frequency_band(frequency: int) -> str:
    """The official band of a word's count in LibriSpeech; 0 is out of vocabulary.

    The bands' names promise more than they hold: the official scripts count 5 to 6-20, 20 to
    21-100 and 100 to >100.
    """
    return FREQUENCY_BANDS[sum(frequency >= end for end in _BAND_ENDS)]
