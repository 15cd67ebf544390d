"""A p-value never stands without the smallest that as many units can reach."""

import re
from typing import Any

import pytest

from ray_jobs.reports import words
from ray_jobs.reports.page import TEMPLATES
from ray_jobs.reports.words import p_words
from ttt.statistics.significance import adjust_for_many, paired_test


def p_cells(row: dict[str, Any]) -> list[str]:
    parts: Any = TEMPLATES.get_template("parts.html.j2").module
    return [parts.cell(content) for content in words.p_cells(row)]


def _rows(units: int, count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [dict(paired_test([1.0 + k for k in range(units)]))] * count
    rows = [dict(row) for row in rows]
    adjust_for_many(rows)
    return rows


@pytest.mark.parametrize(
    ("units", "rows", "words"),
    [
        (4, 9, ""),
        (5, 1, "p = 0.0625, 0.0625 after Holm (least possible: 0.062, 0.062 after Holm, too few"),
        (6, 1, "p = 0.0312, 0.0312 after Holm (least possible: 0.031, 0.031 after Holm)"),
        (8, 9, "p = 0.00781, 0.0703 after Holm (least possible: 0.0078, 0.07 after Holm, too few"),
        (9, 9, "p = 0.00391, 0.0352 after Holm (least possible: 0.0039, 0.035 after Holm)"),
    ],
)
def test_words_say_what_is_out_of_reach(units: int, rows: int, words: str) -> None:
    said = p_words(_rows(units, rows)[0])
    assert said.startswith(words)
    assert bool(said) == bool(words)
    assert ("too few to reach 0.05" in said) == ("too few" in words)


def test_cells_have_both_and_no_p_is_zero() -> None:
    cells = [re.sub(r"<[^>]+>", "|", cell) for cell in p_cells(_rows(8, 9)[0])]
    assert cells == ["|0.0078||least 0.0078|", "|0.0703||least 0.0703|"]
    many = [re.sub(r"<[^>]+>", "|", cell) for cell in p_cells(_rows(30, 1)[0])]
    assert "0.0000" not in "".join(many)
    assert [re.sub(r"<[^>]+>", "", cell) for cell in p_cells(_rows(4, 1)[0])] == ["–", "–"]


def test_a_summary_of_an_older_version_shows_what_it_has() -> None:
    row = {"p_wilcoxon": 0.25, "p_holm": 0.5}
    assert p_words(row) == "p = 0.25, 0.5 after Holm"
    assert [re.sub(r"<[^>]+>", "", cell) for cell in p_cells(row)] == ["0.2500", "0.5000"]
