"""Tables and texts as other programs write them, and what is refused."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ttt.errors import UserError
from ttt.eval.chapters.voice_activity import read_description
from ttt.eval.pairs.official import official_scores
from ttt.files.text import read_table, read_text

TABLE = [["filename", "word", "correct"], ["a1", "wörd", "1"], ["a0", "", "0"]]
ROWS = [dict(zip(TABLE[0], row, strict=True)) for row in TABLE[1:]]


def joined(separator: str = ",", end: str = "\n", quote: str = "") -> str:
    lines = [separator.join(f"{quote}{cell}{quote}" for cell in row) for row in TABLE]
    return end.join(lines) + end


WRITTEN = {
    "plain": joined(),
    "mark": "\ufeff" + joined(),
    "mark and quotes": "\ufeff" + joined(quote='"'),
    "windows": joined(end="\r\n"),
    "old mac": joined(end="\r"),
    "semicolons": joined(";"),
    "tabs": joined("\t", "\r\n"),
    "bars": joined("|"),
    "quotes": joined(quote='"'),
    "spaces": joined(" , "),
    "a line for the spreadsheet": "\ufeffsep=;\r\n" + joined(";", "\r\n"),
    "empty lines": f"{joined()}\n\n,,\n",
    "a column without a name": joined().replace("\n", ",\n"),
    "no end": joined().rstrip("\n"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_table_is_read_as_whoever_wrote_it_meant_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(WRITTEN[name].encode())
    assert read_table(path, ["filename", "correct"]) == ROWS


def test_separators_inside_cells_are_no_columns(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('filename;text\na;"one; two, three"\nb;she said, "no"\n')
    texts = [row["text"] for row in read_table(path, ["filename"])]
    assert texts == ["one; two, three", 'she said, "no"']


@pytest.mark.parametrize(
    "content, reason",
    [
        (joined().encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        (joined().encode("utf-32"), "it is UTF-32; save it as UTF-8"),
        (codecs.BOM_UTF16_BE + joined().encode("utf-16-be"), "it is UTF-16"),
        (joined().encode("utf-16-le"), "NUL characters, as UTF-16 does"),
        (joined().encode("latin-1"), "line 2 is not UTF-8; save it as UTF-8"),
        (b"", "the column correct; its first line names nothing"),
        (b"file,correct\n", "the column filename; its first line names file, correct"),
        (b"filename,correct,correct\n", "two columns correct"),
        (b"filename,correct\na,1,2\n", "row 2 has more cells than the first line has names"),
        (b'filename,correct\na,"1\nb,0\nc,1\n', "a quote in row 2 is not closed"),
        (b"filename,correct\na," + b"x" * 200_000, "line 2: field larger than field limit"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_table(path, ["filename", "correct"])


def test_texts_begin_behind_their_mark(tmp_path: Path) -> None:
    path = tmp_path / "chapter.json"
    path.write_bytes(codecs.BOM_UTF8 + json.dumps({"speaker": "ü"}).encode())
    assert read_description(path) == {"speaker": "ü"}
    path.write_text('{"speaker": 1}', encoding="utf-16")
    with pytest.raises(UserError, match=r"cannot be read as JSON \(it is UTF-16; save it as UTF-8"):
        read_description(path)


GOLD = [
    "filename,id,voice,frequency,word,phones,length,correct",
    "a1,0,A,5,w,p,3,1",
    "a0,0,A,5,n,p,3,0",
]


def as_written(change: Callable[[str], str]) -> bytes:
    return change("\n".join(GOLD) + "\n").encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text.replace(",", ";").replace("\n", "\r\n"),
        lambda text: text.replace(",", "\t"),
    ],
)
def test_gold_tables_and_scores_of_other_programs_give_the_same_scores(
    tmp_path: Path, change: Callable[[str], str]
) -> None:
    (tmp_path / "gold.csv").write_bytes(as_written(change))
    (tmp_path / "scores.txt").write_bytes("\ufeffa1.wav\t2\r\na0.wav 1\r\n".encode())
    scores = official_scores("lexical", tmp_path / "gold.csv", tmp_path / "scores.txt")
    assert (scores["score"], scores["without_partner"]) == (1.0, [])


@pytest.mark.parametrize("text", ["many", "nan", "-1", "1e999"])
def test_a_frequency_that_is_no_count_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "gold.csv").write_text("\n".join(GOLD).replace("A,5,w", f"A,{text},w"))
    (tmp_path / "scores.txt").write_text("a1 2\na0 1\n")
    with pytest.raises(UserError, match=f"a1 has frequency={text}, not a count"):
        official_scores("lexical", tmp_path / "gold.csv", tmp_path / "scores.txt")


def test_a_file_without_a_mark_is_its_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("a\r\nb\ufeff".encode())
    assert read_text(path) == "a\r\nb\ufeff"
