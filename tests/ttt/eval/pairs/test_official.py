"""Scores of the lexical and syntactic benchmarks, against what the official scripts write."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from ttt.errors import UserError
from ttt.eval.pairs import official_scores

TABLES = {"lexical": ("pair", "frequency", "length"), "syntactic": ("pair", "type")}


@pytest.fixture(scope="module")
def golden() -> Path:
    folder = Path(__file__).resolve().parents[5] / "shared" / "golden" / "zerospeech"
    if not folder.is_dir():
        pytest.skip("the official scripts' tables (../shared/golden/zerospeech) are not here")
    return folder


def _assert_official(scores: dict[str, Any], golden: Path, benchmark: str) -> None:
    expected = json.loads((golden / "expected.json").read_text())
    assert scores["score"] == pytest.approx(expected[benchmark], abs=1e-12)
    assert scores["without_partner"] == []
    for table in TABLES[benchmark]:
        with open(golden / f"{benchmark}_by_{table}.csv", newline="") as file:
            theirs = list(csv.DictReader(file))
        ours = scores[f"by_{table}"]
        assert [list(row) for row in ours] == [list(row) for row in theirs]
        for mine, official in zip(ours, theirs, strict=True):
            for column, text in official.items():
                if column in ("score", "std"):
                    assert mine[column] == pytest.approx(float(text), abs=1e-12)
                else:
                    assert str(mine[column]) == text


@pytest.mark.parametrize("benchmark", TABLES)
def test_equals_the_official_tables(golden: Path, benchmark: str) -> None:
    gold, scores = golden / f"{benchmark}_gold.csv", golden / f"{benchmark}_scores.txt"
    _assert_official(official_scores(benchmark, gold, scores), golden, benchmark)


@pytest.mark.parametrize("benchmark", TABLES)
def test_the_order_of_rows_means_nothing(golden: Path, tmp_path: Path, benchmark: str) -> None:
    # The official syntactic script pairs by position and gives other scores for these.
    order = random.Random(4)
    header, *gold = (golden / f"{benchmark}_gold.csv").read_text().splitlines()
    scores = (golden / f"{benchmark}_scores.txt").read_text().splitlines()
    order.shuffle(gold)
    order.shuffle(scores)
    (tmp_path / "gold.csv").write_text("\n".join([header, *gold]) + "\n")
    (tmp_path / "scores.txt").write_text("\n".join(f"{line}  " for line in scores))
    shuffled = official_scores(benchmark, tmp_path / "gold.csv", str(tmp_path / "scores.txt"))
    _assert_official(shuffled, golden, benchmark)


HEADER = "filename,id,voice,frequency,word,phones,length,correct"


def _write(folder: Path, rows: list[str], scores: list[str]) -> tuple[Path, Path]:
    (folder / "gold.csv").write_text("\n".join([HEADER, *rows]))
    (folder / "scores.txt").write_text("\n".join(scores))
    return folder / "gold.csv", folder / "scores.txt"


def test_voices_count_before_words_and_ties_half(tmp_path: Path) -> None:
    # Word 0: right, wrong, tied = 0.5. Word 1 has one voice and is right. Mean of words 0.75.
    outcomes = {"0A": (2, 1), "0B": (1, 2), "0C": (1.5, 1.5), "1A": (-1, -3)}
    rows = [f"{k}1,{k[0]},{k[1]},5,w{k[0]},p,3,1" for k in outcomes]
    rows += [f"{k}0,{k[0]},{k[1]},5,,q{k[0]},3,0" for k in outcomes]
    lines = [f"{k}1.wav {right}" for k, (right, _) in outcomes.items()]
    lines += [f"{k}0.wav {wrong}" for k, (_, wrong) in outcomes.items()]
    scores = official_scores("lexical", *_write(tmp_path, rows, lines))
    assert scores["score"] == 0.75
    # A table without spelled non-words has their phones, as the official script.
    assert scores["by_pair"] == [
        {"word": "w0", "non word": "q0", "frequency": 5, "length": 3, "score": 0.5},
        {"word": "w1", "non word": "q1", "frequency": 5, "length": 3, "score": 1.0},
    ]
    bands = {
        row["frequency"]: (row["n"], row["score"], row["std"]) for row in scores["by_frequency"]
    }
    assert bands["6-20"] == (2, 0.75, pytest.approx(0.5**0.5 / 2))
    assert bands["oov"] == bands["1-5"] == (0, None, None)


@pytest.mark.parametrize(
    "frequency, band",
    [(0, "oov"), (1, "1-5"), (4, "1-5"), (5, "6-20"), (19, "6-20"), (20, "21-100"),
     (99, "21-100"), (100, ">100"), (100_000, ">100")],
)  # fmt: skip
def test_band_edges(tmp_path: Path, frequency: int, band: str) -> None:
    rows = [f"a{correct},0,A,{frequency},w,p,3,{correct}" for correct in (0, 1)]
    scores = official_scores("lexical", *_write(tmp_path, rows, ["a0 1", "a1 2"]))
    assert [row["frequency"] for row in scores["by_frequency"] if row["n"]] == [band]


def test_a_recording_without_a_partner_is_named_and_not_paired(tmp_path: Path) -> None:
    rows = ["a1,0,A,5,w,p,3,1", "a0,0,A,5,n,p,3,0", "b1,0,B,5,w,p,3,1"]
    scores = official_scores("lexical", *_write(tmp_path, rows, ["a1 2", "a0 1", "b1 0"]))
    assert (scores["score"], scores["without_partner"]) == (1.0, ["b1"])


@pytest.mark.parametrize(
    "rows, lines, message",
    [
        (["a1,0,A,5,w,p,3,1", "a0,0,A,5,n,p,3,0"], ["a1 2"], "1 recordings of .* no score.* a0"),
        (["a1,0,A,5,w,p,3,1"], ["a1 2", "zz 1"], "1 recordings are not in .* zz"),
        (["a1,0,A,5,w,p,3,1"], ["a1 nan"], "scores.txt:1: a1 has no finite score"),
        (["a1,0,A,5,w,p,3,1"], ["a1 1", "a1 2"], "scores.txt:2: a1 .* a second one"),
        (["a1,0,A,5,w,p,3,1"], ["a1 2 3"], "scores.txt:1: not of the form"),
        (["a1,0,A,5,w,p,3,1", "b1,0,A,5,w,p,3,1"], ["a1 1", "b1 1"], "a1 and b1 take the same"),
        (["a1,0,A,5,w,p,3,1", "a1,0,A,5,w,p,3,0"], ["a1 1"], "a1 occurs twice"),
        (["a1,0,A,5,w,p,3,2"], ["a1 1"], "a1 has correct=2"),
        (["a1,0,,5,w,p,3,1"], ["a1 1"], r"a row \(a1\) has no voice"),
        (["a1,0"], ["a1 1"], r"a row \(a1\) has no correct"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, rows: list[str], lines: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        official_scores("lexical", *_write(tmp_path, rows, lines))


def test_other_files_and_benchmarks_are_refused(tmp_path: Path) -> None:
    gold, scores = _write(tmp_path, ["a1,0,A,5,w,p,3,1"], ["a1 1"])
    with pytest.raises(UserError, match="no such benchmark; there are lexical, syntactic"):
        official_scores("phonetic", gold, scores)
    with pytest.raises(UserError, match="a gold table of syntactic needs the column subtype"):
        official_scores("syntactic", gold, scores)
    with pytest.raises(UserError, match="not a readable gold table"):
        official_scores("lexical", tmp_path / "none.csv", scores)
    with pytest.raises(UserError, match="not a readable file of scores"):
        official_scores("lexical", gold, tmp_path / "none.txt")
