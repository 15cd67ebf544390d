"""--compare names first what differs, and writes a page, JSON and pictures, for both kinds."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_jobs import evaluate_chapters, evaluate_pairs
from tests.ttt.eval import finished_run, scored_pairs
from ttt.eval.chapters.run import ChapterRun
from ttt.eval.pairs.run import PairRun

Change = Callable[[Any], Any]


def _model(run: Any) -> Any:
    return replace(run, models=tuple(replace(m, fingerprint="cd") for m in run.models))


def _text(run: Any) -> Any:
    if isinstance(run, ChapterRun):
        return replace(run, streams={**run.streams, "text_stream": "pad"})
    return replace(run, settings=(replace(run.settings[0], text="pad"),))


def _write(kind: str, folder: Path) -> tuple[Path, Any, Any]:
    """A run whose models differ in nothing that is recorded, its description, the command."""
    if kind == "chapters":
        finished_run.write_run(folder, chapters=5, speakers=5, models=("baseline",))
        run: Any = ChapterRun.read(folder)
        return folder, replace(run, provenance={**run.provenance, "config": {}}), evaluate_chapters
    pairs = [scored_pairs.made_pairs()]
    scored_pairs.write_run(folder, {"baseline": scored_pairs.noisy(0)}, pairs)
    run = PairRun.read(folder)
    return folder, replace(run, provenance={**run.provenance, "config": {}}), evaluate_pairs


@pytest.fixture(scope="module", params=["chapters", "pairs"])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two runs that are the same, and what may be changed in the second's description."""
    first, described, command = _write(request.param, tmp_path_factory.mktemp("one"))
    second, _, _ = _write(request.param, tmp_path_factory.mktemp("two"))
    described.write(first)
    return first, second, described, command


@pytest.mark.parametrize(
    ("change", "line", "heading"),
    [
        (_text, " -> pad", "differ in streams"),
        (_model, "model.fingerprint: ab", "Two models"),
        (lambda run: run, "no setting differs", "with the same settings"),
    ],
)
def test_what_differs_is_named_before_any_number(
    runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    change: Change, line: str, heading: str,
) -> None:  # fmt: skip
    first, second, described, command = runs
    change(described).write(second)
    output = tmp_path / "both"
    assert command.main(["--compare", str(first), str(second), f"output={output}"]) == 0
    printed = capsys.readouterr().out
    before = printed[: printed.index(f" of {second} minus ")]
    assert line in before
    assert heading in before.splitlines()[0]
    if "model" not in heading:
        assert "models" not in before
    page = (output / "report.html").read_text()
    assert page.index("What differs") < page.index("data:image/png")
    assert heading in page[: page.index("</h1>")]
    assert page.count("<h2>What differs</h2>") == 1
    written = json.loads((output / "comparison.json").read_text())
    differs = written["comparisons"][0]["differs"]
    assert len(differs) == before.count(" -> ")
    assert [side["run"] for side in written["sides"]] == [str(first), str(second)]
    pictures = sorted(path.suffix for path in (output / "plots").iterdir())
    assert {".png", ".svg"} <= set(pictures)
    assert not list(second.glob("comparisons"))


def test_without_a_folder_the_page_lies_below_the_first_run(
    runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, described, command = runs
    described.write(second)
    assert command.main(["--compare", str(first), str(second)]) == 0
    (page,) = first.glob("comparisons/*/report.html")
    assert f"report: {page}" in capsys.readouterr().out
    (first / "comparisons").rename(first.parent / f"moved-{first.name}")


def test_what_is_not_an_output_is_refused(runs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, _, command = runs
    for wrong in ("outptu=x", "output=", "chunk=3"):
        assert command.main(["--compare", str(first), str(second), wrong]) == 2
        expected = f"--compare takes output=FOLDER beside its values, not {wrong}"
        assert expected in capsys.readouterr().err
    assert command.main(["--rescore", str(first), "output=x"]) == 2
    assert "--rescore takes nothing beside its values" in capsys.readouterr().err


def test_models_of_one_run_differ_as_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run.write_run(tmp_path / "run", chapters=6)
    pair = [f"{run}:baseline", f"{run}:ttt", f"output={tmp_path / 'both'}"]
    assert evaluate_chapters.main(["--compare", *pair]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Two models:\n  model.ttt.folder: none -> runs/ttt\n")
    assert f"\nttt of {run} minus baseline of {run}, 6 chapters, nats\n" in printed
    page = (tmp_path / "both" / "report.html").read_text()
    assert "<h1>Chapters: Two models</h1>" in page
    # All numbers that are printed stand in the JSON as they are.
    written = json.loads((tmp_path / "both" / "comparison.json").read_text())
    row = written["comparisons"][0]["losses"]["moshi"]["measures"]["at_1000"]
    assert f"{row['mean']:+.4g}" in printed
