"""`make same` finds a value that has changed, and this tree has the values that it stores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import same


def test_this_tree_has_the_stored_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert same.main([]) == 0, capsys.readouterr().out


STORED = {"loss": 2.0, "norm": -1e-9, "zero": 0.0}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({**STORED, "loss": 2.00004}, "loss: was 2.0 and is 2.00004"),
        ({**STORED, "norm": -1.0001e-9}, "norm: was -1e-09 and is -1.0001e-09"),
        ({**STORED, "zero": 1e-30}, "zero: was 0.0 and is 1e-30"),
        ({**STORED, "loss": float("nan")}, "loss: was 2.0 and is nan"),
        ({**STORED, "more": 1.0}, "more: was None and is 1.0"),
        ({"loss": 2.0, "zero": 0.0}, "norm: was -1e-09 and is None"),
    ],
)
def test_a_changed_value_is_found_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], found: dict[str, float], said: str
) -> None:
    file = tmp_path / "values.json"
    file.write_text(json.dumps(STORED))
    assert same.check(found, file, rewrite=False) == 1
    out = capsys.readouterr().out
    assert said in out
    assert "1 values moved by more than 1e-05; meant? make same REWRITE=1" in out
    assert json.loads(file.read_text()) == STORED


def test_rounding_is_no_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "values.json"
    file.write_text(json.dumps(STORED))
    assert same.check({**STORED, "loss": 2.00001}, file, rewrite=False) == 0
    assert "largest relative difference 5e-06 (loss)" in capsys.readouterr().out


def test_rewriting_renews_the_values_and_prints_the_largest_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "values.json"
    file.write_text(json.dumps(STORED))
    renewed = {**STORED, "loss": 2.5}
    assert same.check(renewed, file, rewrite=True) == 0
    assert "3 values; largest relative difference 0.2 (loss)" in capsys.readouterr().out
    assert json.loads(file.read_text()) == renewed


def test_other_words_are_refused() -> None:
    assert same.main(["--renew"]) == 2
