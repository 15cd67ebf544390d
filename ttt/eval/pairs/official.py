"""The official scores of ZeroSpeech's lexical and syntactic benchmarks, from a file of scores.

A recording's score is any number that is higher for what is more probable. A pair gives 1 where the
correct recording scores higher, 0.5 for a tie, 0 otherwise; a word's score is the mean over its
voices, the benchmark's the mean over words. The official syntactic script pairs rows by their
position; here rows are paired by what they say.

Source: zerospeech/benchmarks, tasks/lm/lexical.py and syntactic.py.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ttt.errors import UserError
from ttt.eval.pairs.zerospeech import FREQUENCY_BANDS, PAIR_KEYS, frequency_band, read_gold
from ttt.files.text import Row, read_text
from ttt.files.walk import natural_key


def official_scores(task: str, gold_csv: str | Path, scores_txt: str | Path) -> dict[str, Any]:
    """The tables that the official scripts write, each a list of rows (dictionaries).

    Args:
        task: lexical or syntactic.
        scores_txt: one line per recording, `filename score`.

    Returns:
        score, by_pair, without_partner (file names that belong to no pair), and by_frequency and
        by_length (lexical) or by_type (syntactic) with n, score and std; None where n is too small.

    Raises:
        UserError: another task, a damaged file, recordings that only one of the files has, or two
            recordings for one place in a pair.
    """
    if task not in PAIR_KEYS:
        raise UserError(f"{task}: no such benchmark; there are {', '.join(PAIR_KEYS)}")
    gold = read_gold(Path(gold_csv), task)
    scores = _read_scores(Path(scores_txt))
    _refuse_other_names(gold, scores, gold_csv, scores_txt)
    whole, without_partner = _paired(gold, PAIR_KEYS[task], gold_csv)
    by_word: dict[tuple[Any, ...], list[tuple[Row, Row]]] = defaultdict(list)
    for key, pair in whole.items():
        *kind, number, _voice = key
        by_word[(*kind, natural_key(number))].append(pair)
    words = [
        {
            **(_lexical if task == "lexical" else _syntactic)(*pairs[0]),
            "score": statistics.fmean(_outcome(pair, scores) for pair in pairs),
        }
        for _, pairs in sorted(by_word.items())
    ]
    tables = _lexical_tables(words) if task == "lexical" else _syntactic_tables(words)
    score = statistics.fmean(word["score"] for word in words) if words else None
    return {"score": score, **tables, "without_partner": without_partner}


def _read_scores(path: Path) -> dict[str, float]:
    scores: dict[str, float] = {}
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable file of scores ({error})") from error
    for number, line in enumerate(lines, start=1):
        try:
            name, text = line.split()
            score = float(text)
        except ValueError as error:
            raise UserError(f"{path}:{number}: not of the form `filename score`") from error
        name = name.removesuffix(".wav")
        if not math.isfinite(score) or name in scores:
            raise UserError(f"{path}:{number}: {name} has no finite score, or a second one")
        scores[name] = score
    return scores


def _refuse_other_names(
    gold: Sequence[Row], scores: dict[str, float], gold_csv: str | Path, scores_txt: str | Path
) -> None:
    named = {row["filename"] for row in gold}
    if missing := sorted(named - scores.keys()):
        raise UserError(
            f"{scores_txt}: {len(missing)} recordings of {gold_csv} have no score, the first is "
            f"{missing[0]}"
        )
    if extra := sorted(scores.keys() - named):
        raise UserError(
            f"{scores_txt}: {len(extra)} recordings are not in {gold_csv}, the first is {extra[0]}"
        )


def _paired(
    gold: Sequence[Row], columns: tuple[str, ...], gold_csv: str | Path
) -> tuple[dict[tuple[str, ...], tuple[Row, Row]], list[str]]:
    """Key -> (correct row, incorrect row), and the names of rows that have no partner."""
    sides: dict[tuple[str, ...], dict[str, Row]] = defaultdict(dict)
    for row in gold:
        key = tuple(row[column] for column in columns)
        other = sides[key].setdefault(row["correct"], row)
        if other is not row:
            raise UserError(
                f"{gold_csv}: {other['filename']} and {row['filename']} take the same place in the "
                f"pair {', '.join(key)}"
            )
    whole = {key: (both["1"], both["0"]) for key, both in sides.items() if len(both) == 2}
    alone = [row["filename"] for both in sides.values() if len(both) == 1 for row in both.values()]
    return whole, sorted(alone, key=natural_key)


def _outcome(pair: tuple[Row, Row], scores: dict[str, float]) -> float:
    right, wrong = (scores[row["filename"]] for row in pair)
    return (right > wrong) + 0.5 * (right == wrong)


def _lexical(word: Row, non_word: Row) -> dict[str, Any]:
    return {
        "word": word.get("word"),
        "non word": non_word.get("word") or non_word.get("phones"),
        "frequency": _whole(word.get("frequency")),
        "length": _whole(word.get("length")),
    }


def _syntactic(sentence: Row, non_sentence: Row) -> dict[str, Any]:
    return {
        "sentence": sentence.get("transcription"),
        "non sentence": non_sentence.get("transcription"),
        "type": sentence["type"],
    }


def _whole(text: str | None) -> int | None:
    return int(float(text)) if text else None


def _lexical_tables(words: list[dict[str, Any]]) -> dict[str, Any]:
    bands = {band: [] for band in FREQUENCY_BANDS}
    lengths: dict[int, list[float]] = defaultdict(list)
    for word in words:
        if word["frequency"] is not None:
            bands[frequency_band(word["frequency"])].append(word["score"])
        if word["length"] is not None:
            lengths[word["length"]].append(word["score"])
    return {
        "by_pair": words,
        "by_frequency": _table("frequency", bands.items()),
        "by_length": _table("length", sorted(lengths.items())),
    }


def _syntactic_tables(sentences: list[dict[str, Any]]) -> dict[str, Any]:
    types: dict[str, list[float]] = defaultdict(list)
    for sentence in sentences:
        types[sentence.pop("type")].append(sentence["score"])
    return {"by_pair": sentences, "by_type": _table("type", sorted(types.items()))}


def _table(name: str, groups: Iterable[tuple[Any, list[float]]]) -> list[dict[str, Any]]:
    return [
        {
            name: group,
            "n": len(scores),
            "score": statistics.fmean(scores) if scores else None,
            "std": statistics.stdev(scores) if len(scores) > 1 else None,
        }
        for group, scores in groups
    ]
