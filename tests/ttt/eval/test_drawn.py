"""plots/ of a run: drawn once, and again as soon as anything is not as it was drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ttt.eval import drawn
from ttt.records import read_json

SUMMARY: dict[str, Any] = {"names": {"a": 1.0}, "gap": float("nan")}


class Pencil:
    """Counts what it draws."""

    def __init__(self) -> None:
        self.drawn = 0

    def __call__(self, *, image_format: str) -> bytes:
        self.drawn += 1
        return f"a picture as {image_format}".encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with its pictures."""
    pencil = Pencil()
    drawn.draw_plots(tmp_path, SUMMARY, {"one": pencil, "two": pencil})
    assert pencil.drawn == 4
    assert (tmp_path / "plots" / "two.svg").read_bytes() == b"a picture as svg"
    assert len(read_json(tmp_path / "plots.json")["files"]) == 4
    return tmp_path


def drawn_again(folder: Path, summary: dict[str, Any] = SUMMARY) -> int:
    pencil = Pencil()
    drawn.draw_plots(folder, summary, {"one": pencil, "two": pencil})
    assert (folder / "plots" / "one.png").read_bytes() == b"a picture as png"
    return pencil.drawn


def test_the_same_pictures_stand(folder: Path) -> None:
    assert drawn_again(folder) == 0
    assert drawn_again(folder, dict(SUMMARY)) == 0


@pytest.mark.parametrize(
    "summary",
    [{**SUMMARY, "names": {"a": 1.0000000000000002}}, {**SUMMARY, "more": None}, {}],
)
def test_another_summary_is_drawn(folder: Path, summary: dict[str, Any]) -> None:
    assert drawn_again(folder, summary) == 4
    assert drawn_again(folder, summary) == 0
    assert drawn_again(folder) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "plots" / "one.png").unlink(),
        lambda folder: (folder / "plots" / "one.png").write_bytes(b"cut"),
        lambda folder: (folder / "plots.json").unlink(),
        lambda folder: (folder / "plots.json").write_text("{"),
        lambda folder: (folder / "plots.json").write_text("[]"),
        lambda folder: (folder / "plots.json").write_text('{"drawn_of": "", "files": {}}'),
    ],
    ids=["deleted", "cut", "no note", "half a note", "another note", "a note of nothing"],
)
def test_what_is_not_as_it_was_drawn_is_drawn(
    folder: Path, damage: Callable[[Path], object]
) -> None:
    damage(folder)
    assert drawn_again(folder) == 4
    assert drawn_again(folder) == 0


def test_other_code_or_packages_draw_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(drawn, "version", lambda name: f"{name} of tomorrow")
        assert drawn_again(folder) == 4
    assert drawn_again(folder) == 4
    with monkeypatch.context() as patched:
        patched.setattr(drawn.inspect, "getsource", lambda module: f"{module} of tomorrow")
        assert drawn_again(folder) == 4
