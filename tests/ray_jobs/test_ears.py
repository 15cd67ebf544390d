"""The listening page as its listeners use it: by keys, in Chromium, from a file; then scored."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from ray_jobs import evaluate_decoder
from ray_jobs.decoder.evaluate import ears
from ray_jobs.decoder.evaluate_config import ReportConfig
from tests.browser import CHROMIUM, Browser, browser
from tests.jobs import run_decoder_evaluation
from tests.ray_jobs.compared_decoders import CLIPS, Compared
from ttt.errors import UserError
from ttt.records import read_json

PHONE, DESK = 390, 1280
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")


@pytest.fixture
def output(compared: Compared, tmp_path: Path) -> Path:
    return shutil.copytree(compared.output, tmp_path / "out")


def _listen(tab: Browser, key: dict[str, Any], wanted: str) -> None:
    """Hear both sides of the trial that is shown and press the key of the decoder `wanted`; `=`
    hears no difference."""
    before = tab.evaluate("state.at")
    sides = tab.evaluate("state.sides[state.order[state.at]]")
    versions = key["trials"][tab.evaluate("state.order[state.at]")]["versions"]
    for side in "12":
        tab.press(side)
        tab.until(f"heard[{int(side) - 1}]")
    made_by = [versions[token] for token in sides]
    tab.press(
        {0: "ArrowLeft", 1: "ArrowRight"}[made_by.index(wanted)] if wanted in "AB" else "ArrowDown"
    )
    tab.until(f"state.at === {before + 1}")


def _begin(tab: Browser, name: str) -> None:
    tab.until("document.activeElement.id === 'name'")
    for letter in name:
        tab.press(letter)
    tab.press("Enter")
    tab.until("!document.getElementById('trial').hidden")


def _saved(tab: Browser, path: Path) -> dict[str, Any]:
    tab.until("document.activeElement.id === 'save'")
    tab.press("Enter")
    tab.until("document.getElementById('saved').textContent")
    tab.until_there(path)
    return read_json(path)


@needs_browser
def test_a_listener_answers_by_keys_reloads_midway_and_is_scored(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = read_json(output / ears.KEY)
    alone = shutil.copy(output / ears.PAGE, tmp_path / "sent.html")
    answers = "BB=ABB"
    with browser(tmp_path / "profile") as tab:
        tab.screen(DESK, 900)
        tab.downloads_to(tmp_path)
        tab.open(Path(alone).as_uri())
        _begin(tab, "anna")
        tab.press("ArrowLeft")
        assert tab.evaluate("state.at") == 0, "nothing was heard yet"
        assert "Listen to 1 and 2 before" in tab.evaluate(
            "document.getElementById('status').textContent"
        )
        for wanted in answers[:3]:
            _listen(tab, key, wanted)
        order = tab.evaluate("state.order")
        tab.reload()
        assert tab.evaluate("document.getElementById('place').textContent") == "Clip 4 of 6"
        assert tab.evaluate("state.order") == order
        tab.press("b")
        assert tab.evaluate("state.at") == 2
        _listen(tab, key, "A")  # In place of =.
        tab.press("b")
        _listen(tab, key, "=")
        for wanted in answers[3:]:
            _listen(tab, key, wanted)
        result = _saved(tab, tmp_path / "listening-anna.json")
        tab.reload()
        assert "6 of 6" in tab.evaluate("document.getElementById('thanks').textContent")
        assert set(tab.requests) == {Path(alone).as_uri()}, "nothing but the page was asked for"
    assert (result["page"], result["name"], len(result["answers"])) == (key["page"], "anna", CLIPS)
    assert [each["trial"] for each in result["answers"]] == order
    file = str(tmp_path / "listening-anna.json")
    assert evaluate_decoder.main(["--score", file, f"output={output}"]) == 0
    told = capsys.readouterr().out
    assert "B is preferred in 4, A in 1 and neither in 1 of 6 answers: 75.0% for B" in told
    assert "Answers are of one listener" in told
    found = read_json(output / ears.PREFERENCE)
    assert found["preferred"] == {"A": 1, "B": 4}
    assert found["preference"]["low"] < 0.75 < found["preference"]["high"]
    report = (output / "report.html").read_text()
    assert found["verdict"]["heading"] in report
    assert "anna" in report
    assert evaluate_decoder.main(["--score", file, file, f"output={output}"]) == 2
    assert "are of one listener (anna)" in capsys.readouterr().err


@needs_browser
def test_orders_and_sides_differ_by_listener_and_one_browser_serves_several(
    output: Path, tmp_path: Path
) -> None:
    key = read_json(output / ears.KEY)
    ways = set()
    with browser(tmp_path / "profile") as tab:
        tab.downloads_to(tmp_path)
        tab.open((output / ears.PAGE).as_uri())
        tab.evaluate("window.confirm = () => true")
        for name in ("one", "two"):
            _begin(tab, name)
            ways.add(json.dumps(tab.evaluate("[state.order, state.sides]")))
            _listen(tab, key, "B")
            tab.evaluate("document.getElementById('finish').click()")
            result = _saved(tab, tmp_path / f"listening-{name}.json")
            assert len(result["answers"]) == 1
            tab.evaluate("document.getElementById('next').click()")
        drawn = tab.evaluate(
            "[...Array(200)].map(fresh).map((each) => [each.order[0], "
            "each.sides[content.trials[0].trial][0], each.listener])"
        )
    assert len(ways) == 2
    first, sides, listeners = (set(each) for each in zip(*drawn, strict=True))
    assert first == set(key["trials"]), "any clip may come first"
    assert len(sides) == 2
    assert len(listeners) == 200
    left = [side for _, side, _ in drawn]
    assert 70 < left.count(left[0]) < 130


@needs_browser
def test_everything_is_reached_by_tab_and_seen_where_it_is(output: Path, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as tab:
        for width in (PHONE, DESK):
            tab.screen(width, 844)
            tab.open((output / ears.PAGE).as_uri())
            if width == PHONE:
                _begin(tab, "tabs")
            reached = []
            for _ in range(12):
                tab.press("Tab")
                reached.append(tab.evaluate("document.activeElement.id"))
                if reached[-1]:
                    style = tab.evaluate(
                        "(({outlineStyle, outlineWidth}) => [outlineStyle, outlineWidth])"
                        "(getComputedStyle(document.activeElement))"
                    )
                    assert style == ["solid", "3px"], reached[-1]
            wanted = ["play-0", "play-1", "answer-0", "answer-none", "answer-1", "stop", "finish"]
            assert [each for each in reached if each in wanted][: len(wanted)] == wanted
            assert tab.evaluate("document.documentElement.scrollWidth") == width
        tab.evaluate("document.getElementById('play-0').focus()")
        tab.press("Enter")
        tab.until("heard[0]")


def test_the_page_holds_its_sounds_and_not_whose_they_are(compared: Compared) -> None:
    page = (compared.output / ears.PAGE).read_text()
    key = read_json(compared.output / ears.KEY)
    written = re.search(r'<script type="application/json" id="content">(.+?)</script>', page)
    assert written
    content = json.loads(written[1])
    assert content["page"] == key["page"]
    assert {each["trial"] for each in content["trials"]} == set(key["trials"])
    for trial in content["trials"]:
        assert list(trial["versions"]) == sorted(key["trials"][trial["trial"]]["versions"])
    bare = page.replace(written[1], "")
    assert "http" not in bare
    for words in (
        *(str(each) for each in compared.exports),
        *(each["clip_id"] for each in key["trials"].values()),
        *(each["sha256"] for each in key["decoders"].values()),
        key["secret"],
    ):
        assert words not in page, words
    listening = read_json(compared.output / "summary.json")["listening"]
    assert listening["clips"] == CLIPS
    assert listening["residual_lu"] < 0.05


def test_the_page_stays_the_same_on_resume_and_answers_stay_in_the_report(
    compared: Compared, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (output / ears.PAGE).read_bytes()
    key = read_json(output / ears.KEY)
    trial, versions = next((name, each["versions"]) for name, each in key["trials"].items())
    first, second = versions
    answer = {"trial": trial, "first": first, "second": second, "preferred": None}
    result = {
        "format": "ttt-listening-result", "format_version": 1, "page": key["page"],
        "listener": "1", "name": "by hand", "answers": [answer],
    }  # fmt: skip
    (output / "answers.json").write_text(json.dumps(result))
    halfway = shutil.copytree(output, tmp_path / "halfway")
    (halfway / "results.jsonl").unlink()
    with pytest.raises(UserError, match=r"results.jsonl: not there, the evaluation stopped before"):
        ears.score_answers(str(output / "answers.json"), output=str(halfway))
    assert not (halfway / ears.PREFERENCE).exists()
    report = (output / "report.html").read_bytes()
    score = ["--score", str(output / "answers.json"), f"output={output}"]
    capsys.readouterr()
    assert evaluate_decoder.main([*score, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert f"1 answer from {output}/answers.json can be scored; {output}/preference.json" in told
    assert not (output / ears.PREFERENCE).exists()
    assert (output / "report.html").read_bytes() == report
    assert evaluate_decoder.main(score) == 0
    assert "by hand" in (output / "report.html").read_text()
    config = dataclasses.replace(compared.config, output=str(output))
    run_decoder_evaluation(config, resume=True)
    assert (output / ears.PAGE).read_bytes() == page
    assert "by hand" in (output / "report.html").read_text()
    shorter = dataclasses.replace(compared.config.report, listening_clips=5)
    run_decoder_evaluation(dataclasses.replace(config, report=shorter), resume=True)
    assert read_json(output / ears.KEY)["page"] != key["page"]
    assert "by hand" not in (output / "report.html").read_text()


def test_without_listening_clips_there_is_no_page(compared: Compared, output: Path) -> None:
    for name in (ears.PAGE, ears.KEY):
        (output / name).unlink()
    report = dataclasses.replace(compared.config.report, listening_clips=0)
    config = dataclasses.replace(compared.config, output=str(output), report=report)
    run_decoder_evaluation(config, resume=True)
    assert not (output / ears.PAGE).exists()
    assert "listening.html" not in (output / "report.html").read_text()
    with pytest.raises(ValueError, match="listening_clips must not be negative"):
        ReportConfig(listening_clips=-1)


def test_score_says_what_it_lacks(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, sentence in (
        (["--score", f"output={output}"], "--score needs the files that listeners saved"),
        (["--score", "a.json"], "--score needs output=FOLDER, the evaluation that made"),
        (["--score", "a.json", f"output={tmp_path}"], "no key of a listening page can be read"),
        (["--score", "a.json", f"output={output}"], "a.json: no such file; name what the"),
        ([f"output={output}", "--score", "a.json"], "a.json: no such file; name what the"),
        (["--dry-run", "--score", "a.json", f"output={output}"], "a.json: no such file; name"),
        (
            ["codec=tiny", "--score", "a.json"],
            "takes output=FOLDER beside its values, not codec=tiny",
        ),
    ):
        assert evaluate_decoder.main(arguments) == 2, arguments
        told = capsys.readouterr().err
        assert sentence in told
        assert told.count("\n") == 1
