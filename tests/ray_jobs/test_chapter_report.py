"""The page of a chapter evaluation holds its numbers and opens offline."""

import copy
import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from ray_jobs.moshi.chapters.run import JOB
from ray_jobs.moshi.evaluation import write_results
from ray_jobs.reports.chapters import build_report
from tests.ttt.eval.finished_run import write_run
from ttt.eval.chapters.summary import CHAPTERS
from ttt.eval.rescore import summarize_run


class _Page(HTMLParser):
    """Checks that tags nest, and gathers text and references."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.sources, self.ids, self._open = "", [], [], []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href"):
                self.sources.append(value or "")
            if name == "id":
                self.ids.append(value)
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return summarize_run(CHAPTERS, write_run(tmp_path_factory.mktemp("run")))


def test_the_page_holds_the_numbers_and_no_link(summary: dict) -> None:
    html = build_report(summary)
    page = _Page(html)
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?://", html)
    assert page.ids == [
        "curves", "positions", "slopes", "compare-ttt", "context", "activity-ttt", "notes",
        "effort", "chapters", "origin",
    ]  # fmt: skip
    for model in summary["models"].values():
        at = model["losses"]["moshi"]["positions"]["1000"]
        assert f"{at['mean']:.3f}" in page.text
        assert f"{at['low']:.3f} to {at['high']:.3f}, n = {at['n']}" in page.text
    assert "ttt has less loss than baseline beyond the window" in page.text
    assert "4 speakers; an interval needs 5" in page.text  # at 2,000 frames
    assert "5/book/chapter_11 (ttt)" in page.text
    assert summary["run"]["provenance"]["config_digest"] in page.text


def test_a_picture_is_drawn_once_for_page_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    save = Figure.savefig

    def saved(figure: Figure, *args: Any, **settings: Any) -> None:
        drawn.append(settings["format"])
        save(figure, *args, **settings)

    monkeypatch.setattr(Figure, "savefig", saved)
    run = write_run(tmp_path, chapters=3, speakers=3)
    write_results(JOB, run)
    written = sorted(path.suffix[1:] for path in (run / "plots").iterdir())
    assert sorted(drawn) == written
    shown = _Page((run / "report.html").read_text()).sources
    pictures = [path.read_bytes() for path in (run / "plots").glob("*.png")]
    assert sorted(b64decode(source.split(",")[1]) for source in shown) == sorted(pictures)


def test_the_verdict_follows_the_interval(summary: dict) -> None:
    summary = _without_pictures(summary)

    def verdict(**changed: object) -> str:
        compared = summary["comparisons"][0]
        row = compared["losses"]["moshi"]["measures"]["beyond_window"]
        loss = {
            **compared["losses"]["moshi"],
            "measures": {
                **compared["losses"]["moshi"]["measures"],
                "beyond_window": {**row, **changed},
            },
        }
        losses = {**compared["losses"], "moshi": loss}
        return build_report({**summary, "comparisons": [{**compared, "losses": losses}]})

    assert "ttt has more loss than baseline beyond the window" in verdict(low=0.1, high=0.2)
    assert "cannot be told apart beyond the window" in verdict(low=-0.1, high=0.2)
    assert "too few speakers to tell" in verdict(low=None, high=None, reason="few")
    assert "No chapter is longer than the attention window" in verdict(
        mean=None, low=None, reason="none"
    )


def test_a_control_is_no_merit(summary: dict) -> None:
    summary = _without_pictures(summary)
    summary["run"]["models"][1]["controls"] = {"updates": "off"}
    html = build_report(summary)
    assert "ttt has less loss than baseline beyond the window" in html
    assert 'class="callout mixed"' in html
    assert 'class="callout good"' not in html


def test_what_was_held_to_stepping_has_a_section(summary: dict) -> None:
    summary = _without_pictures(summary)
    assert "stepping" not in _Page(build_report(summary)).ids
    summary["models"]["ttt"]["verification"] = {
        "groups": 2,
        "unverified": [{"chapters": ["a/1", "a/2"], "reason": "out of memory"}],
        "frames": 1632,
        "text_differences": 6,
        "unexplained_text_differences": 3,
        "largest_nll_difference": 2.13e-6,
    }
    page = _Page(build_report(summary))
    assert "stepping" in page.ids
    assert "ttt, not held: a/1, a/2: out of memory" in page.text
    assert "2\n1\n1,632\n2.1e-06\n6\n3\n–\n" in page.text  # a run that stepped no beginning
    summary["models"]["ttt"]["verification"]["beginning_frames"] = 9216
    assert "2\n1\n1,632\n2.1e-06\n6\n3\n9,216\n" in _Page(build_report(summary)).text
    summary["models"]["ttt"]["verification"]["largest_nll_difference"] = None
    assert "1,632\nnot a number\n" in _Page(build_report(summary)).text


def test_warnings_stand_first_and_failures_are_listed(tmp_path: Path) -> None:
    run = write_run(tmp_path, chapters=2, speakers=2, warnings=("wrong on purpose <b>",))
    (run / "records/ttt/0/book/chapter_0.parquet").unlink()
    page = _Page(build_report(_without_pictures(summarize_run(CHAPTERS, run))))
    assert page.text.index("wrong on purpose <b>") < page.text.index("against baseline")
    assert "left-out" in page.ids
    assert "not evaluated yet" in page.text


def test_a_run_without_results_has_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path, chapters=1, speakers=1, models=("baseline",))
    (run / "records/baseline/0/book/chapter_0.parquet").unlink()
    page = _Page(build_report(summarize_run(CHAPTERS, run)))
    assert "No chapter fills a bin." in page.text


def _without_pictures(summary: dict) -> dict:
    summary = copy.deepcopy(summary)
    nothing = {"frame": [], "mean": [], "low": [], "high": [], "n": []}
    for model in summary["models"].values():
        model["activity"] = {}
        for loss in model["losses"].values():
            loss["curve"] = nothing
    for compared in summary["comparisons"]:
        for loss in compared["losses"].values():
            loss["curve"] = nothing
    return summary
