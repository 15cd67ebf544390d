"""Answers become a preference: ties are halves, intervals know both crowds, damage is told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ttt.errors import UserError
from ttt.snac.evaluation.preference import read_key, score
from ttt.statistics.accuracies import accuracy_interval, crossed_accuracy_interval

KEY: dict[str, Any] = {
    "format": "ttt-listening-key",
    "format_version": 1,
    "page": "0123456789abcdef",
    "decoders": {"A": {"name": "one"}, "B": {"name": "two"}},
    "trials": {
        f"t{n}": {"clip_id": f"clip {n}", "versions": {f"a{n}": "A", f"b{n}": "B"}}
        for n in range(16)
    },
}


def _result(number: int, letters: str, **fields: Any) -> dict[str, Any]:
    """A letter per trial: A, B, = for no difference, . for no answer; sides alternate."""
    given = []
    for n, letter in enumerate(letters):
        if letter == ".":
            continue
        sides = [f"a{n}", f"b{n}"] if (n + number) % 2 else [f"b{n}", f"a{n}"]
        preferred = None if letter == "=" else f"{letter.lower()}{n}"
        given.append(
            {"trial": f"t{n}", "first": sides[0], "second": sides[1], "preferred": preferred}
        )
    return {
        "format": "ttt-listening-result", "format_version": 1, "page": KEY["page"],
        "listener": f"{number:016x}", "name": f"Listener {number}", "answers": given, **fields,
    }  # fmt: skip


def _files(folder: Path, *results: object) -> list[Path]:
    paths = []
    for number, result in enumerate(results):
        paths.append(folder / f"{number}.json")
        paths[-1].write_text(result if isinstance(result, str) else json.dumps(result))
    return paths


def test_many_listeners_have_an_interval_over_listeners_and_clips(tmp_path: Path) -> None:
    words = ["BBBBBBABBBBB=BBB", "BBABBBBBBBBBBBBB", "BBBBBBBBBB=BBABB"] * 2
    found = score(KEY, _files(tmp_path, *(_result(n, text) for n, text in enumerate(words))))
    outcomes = [{"A": 0.0, "B": 1.0, "=": 0.5}[letter] for text in words for letter in text]
    listeners, clips = [n for n in range(6) for _ in range(16)], list(range(16)) * 6
    expected = crossed_accuracy_interval(outcomes, listeners, clips, ("listener", "clip"))
    assert found["preference"] == expected.to_dict()
    assert found["preference"]["low"] > 0.5
    assert found["verdict"]["heading"] == "Listeners prefer B to A"
    assert found["verdict"]["kind"] == "good"
    assert found["preferred"] == {"A": 6, "B": 86}
    assert (found["no_difference"], found["answers"], found["clips"]) == (4, 96, 16)
    assert sum(found["sides"].values()) == 92
    told = found["verdict"]["sentences"]
    assert told[0].startswith("B is preferred in 86, A in 6 and neither in 4 of 96 answers: 91.7%")
    assert told[1] == "The interval is over 6 listeners and 16 clips at once."
    assert found["listeners"][0]["preferred"] == {"A": 1, "B": 14}


def test_swapped_answers_swap_the_preference(tmp_path: Path) -> None:
    words = ["BBBBBBABBBBB=BBB"] * 6
    swap = str.maketrans("AB", "BA")
    both = [
        score(KEY, _files(tmp_path, *(_result(n, text) for n, text in enumerate(texts))))
        for texts in (words, [text.translate(swap) for text in words])
    ]
    ours, theirs = (each["preference"] for each in both)
    assert ours["mean"] == pytest.approx(1 - theirs["mean"])
    assert (ours["low"], ours["high"]) == pytest.approx((1 - theirs["high"], 1 - theirs["low"]))
    assert both[1]["verdict"]["heading"] == "Listeners prefer A to B"
    assert both[1]["verdict"]["kind"] == "bad"


def test_ties_pull_towards_none_and_are_counted(tmp_path: Path) -> None:
    texts = ["B===============", "================", "=======A========"] * 2
    found = score(KEY, _files(tmp_path, *(_result(n, text) for n, text in enumerate(texts))))
    assert found["preference"]["mean"] == 0.5
    assert found["no_difference"] == 92
    assert found["verdict"]["heading"] == "No preference between A and B is shown"
    few = score(KEY, _files(tmp_path, *(_result(n, "BBB=============") for n in range(6))))
    assert few["preference"]["mean"] == pytest.approx((3 + 6.5) / 16)
    assert few["verdict"]["heading"] == "No preference between A and B is shown"


def test_one_listener_has_an_interval_over_clips_and_hears_so(tmp_path: Path) -> None:
    found = score(KEY, _files(tmp_path, _result(0, "BBBBBBBBBBBBBBB=")))
    expected = accuracy_interval([1.0] * 15 + [0.5], range(16), "values", "clip")
    assert found["preference"] == expected.to_dict()
    assert found["verdict"]["heading"] == "The listener prefers B to A"
    assert found["verdict"]["sentences"][1].startswith("Answers are of one listener, so the")
    three = score(KEY, _files(tmp_path, *(_result(n, "B" * 16) for n in range(3))))
    assert three["verdict"]["heading"] == "These 3 listeners prefer B to A"
    assert "3 listeners, so the interval is over clips alone" in three["verdict"]["sentences"][1]


def test_few_clips_leave_an_interval_over_listeners_or_none(tmp_path: Path) -> None:
    found = score(KEY, _files(tmp_path, *(_result(n, "BBB.............") for n in range(8))))
    assert "Answers are about 3 clips, so" in found["verdict"]["sentences"][1]
    assert found["preference"]["low"] > 0.5
    none = score(KEY, _files(tmp_path, _result(0, "BBB")))
    assert none["verdict"]["heading"] == "No verdict by ear"
    assert "3 clips; an interval needs 5." in none["verdict"]["sentences"]


def test_partial_answers_count_for_what_was_answered(tmp_path: Path) -> None:
    texts = ["BBBBBBBB........", "........AAAAAAAA", *["B.B.B.B.B.B.B.B."] * 4]
    found = score(KEY, _files(tmp_path, *(_result(n, text) for n, text in enumerate(texts))))
    assert found["answers"] == 48
    assert [each["answered"] for each in found["listeners"]] == [8] * 6
    assert found["preference"]["mean"] == pytest.approx(40 / 48)


OTHER = _result(1, "AB", page="feedfeedfeedfeed")
DAMAGED = _result(1, "AB")
DAMAGED["answers"][0]["preferred"] = "b1"
TWICE = _result(1, "AB")
TWICE["answers"].append(TWICE["answers"][0])
FIRST = _result(1, "AB")["answers"][0]


def _with_first(**changes: object) -> dict[str, Any]:
    """A result whose first answer has other fields; those that are `...` are left out."""
    fields = {name: value for name, value in (FIRST | changes).items() if value is not ...}
    return _result(1, "AB", answers=[fields, _result(1, "AB")["answers"][1]])


def _lacking(*fields: str) -> dict[str, Any]:
    return {name: value for name, value in _result(1, "AB").items() if name not in fields}


@pytest.mark.parametrize(
    "results, sentence",
    [
        ([OTHER], r"0.json: answers another page \(feedfeedfeedfeed\) than this evaluation's"),
        ([_result(1, "")], "0.json: holds no answer; leave it out"),
        ([_result(1, "...")], "0.json: holds no answer; leave it out"),
        ([_result(1, "AB"), _result(1, "BB")], r"0.json and .*1.json are of one listener"),
        (
            [_result(1, "AB", name="Anna"), _result(2, "BB", name=" anna ")],
            r"of one listener \(anna\); if they are two people, tell their names apart",
        ),
        (["not json"], "0.json: is not what a listening page saved"),
        (["[]"], "0.json: is not what a listening page saved"),
        ([KEY], "0.json: is not what a listening page saved"),
        ([_result(1, "AB", format_version=2)], "format version 2, this program reads 1"),
        ([_result(1, "AB", answers=None)], "0.json: is damaged, its answers are missing or wrong"),
        ([_result(1, "AB", listener="")], "0.json: is damaged, its listener is missing or wrong"),
        ([_result(1, "AB", listener=7)], "0.json: is damaged, its listener is missing or wrong"),
        ([_lacking("name")], "0.json: is damaged, its name is missing or wrong; ask for the file"),
        ([_lacking("name", "answers")], "its name and answers are missing or wrong"),
        ([DAMAGED], "is damaged, answer 1 of 2 prefers what is not one of the two versions of"),
        ([TWICE], "is damaged, answer 3 of 3 is the second about trial t0"),
        ([_result(1, "AB", answers=[7])], "answer 1 of 1 is no object with trial, first, second"),
        ([_with_first(preferred=...)], "0.json: is damaged, answer 1 of 2 lacks preferred; ask"),
        ([_with_first(first=..., second=...)], "answer 1 of 2 lacks first and second"),
        ([_with_first(trial="t99")], "answer 1 of 2 is about a trial that the page does not have"),
        ([_with_first(trial={})], "answer 1 of 2 is about a trial that the page does not have"),
        ([_with_first(first="b0", second="b0")], "that are not the two versions of trial t0"),
        ([_with_first(first=7)], "that are not the two versions of trial t0"),
        ([_with_first(preferred=["a0"])], "prefers what is not one of the two versions of trial"),
    ],
)
def test_bad_input_is_told_in_one_sentence(
    tmp_path: Path, results: list[object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        score(KEY, _files(tmp_path, *results))
    assert "\n" not in str(error.value)
    assert "{" not in str(error.value)


def test_nameless_listeners_are_told_apart_by_their_numbers(tmp_path: Path) -> None:
    found = score(KEY, _files(tmp_path, *(_result(n, "AB", name="") for n in range(2))))
    assert len(found["listeners"]) == 2


def test_files_and_keys_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json: no such file; name what"):
        score(KEY, [tmp_path / "absent.json"])
    with pytest.raises(
        UserError, match=r"[^ ]*: is a folder; name the files that listeners saved$"
    ):
        score(KEY, [tmp_path])
    key = tmp_path / "listening_key.json"
    with pytest.raises(UserError, match="no key of a listening page can be read there; name") as e:
        read_key(key)
    assert str(e.value).count(str(key)) == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can be read there \(Not a directory\); name"):
        read_key(tmp_path / "file" / "listening_key.json")
    (tmp_path / "key.json").write_text(json.dumps(_result(0, "A")))
    with pytest.raises(UserError, match="is not the key of a listening page"):
        read_key(tmp_path / "key.json")
    (tmp_path / "key.json").write_text(json.dumps(KEY))
    assert read_key(tmp_path / "key.json") == KEY
    (tmp_path / "key.json").write_text(json.dumps({**KEY, "format_version": 2}))
    with pytest.raises(UserError, match="format version 2, this program reads 1; use the version"):
        read_key(tmp_path / "key.json")


def test_the_interval_holds_what_listeners_at_large_prefer(tmp_path: Path) -> None:
    """Drawn listeners and clips, each with a taste of its own: at least nine times in ten."""
    rng = np.random.default_rng(5)
    held, trials = 0, 60
    for _ in range(trials):
        leans = rng.normal(0, 1, (6, 1)) + rng.normal(0, 1, (1, 16))
        texts = [
            "".join("AB"[int(x)] for x in row)
            for row in rng.random((6, 16)) < 1 / (1 + np.exp(-leans))
        ]
        found = score(KEY, _files(tmp_path, *(_result(n, text) for n, text in enumerate(texts))))
        held += found["preference"]["low"] <= 0.5 <= found["preference"]["high"]
    assert held >= 0.9 * trials
