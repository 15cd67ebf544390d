"""Of two decoders one is better only where all that it needs is shown, and neither has to prove
more than the other."""

from typing import Any

import numpy as np
import pytest

from ttt.snac.evaluation.between import markdown, summarize_between
from ttt.snac.evaluation.systems import METRIC_NAMES
from ttt.snac.verdict import describe_interval, digits
from ttt.statistics.intervals import clustered_interval, clustered_ratio_interval

BASE = {
    "lsd": 2.0, "lsd_lf": 1.0, "lsd_hf": 3.0, "lsd_hf_shape": 2.5, "env_r": 0.5, "si_sdr": 4.0,
    "l1": 0.02,
}  # fmt: skip
SUMS = ("env_r", "si_sdr")


def _rows(clips: int = 8, wobble: float = 1e-3, **changes: float) -> list[dict[str, Any]]:
    """A has BASE by clip; B has it times (env-r and SI-SDR: plus) the change, and a wobble."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(clips):
        size = float(rng.uniform(0.8, 1.2))
        a = {name: number * size for name, number in BASE.items()}
        b = {
            name: number + changes.get(name, 0.0) + wobble * rng.normal()
            if name in SUMS
            else number * changes.get(name, 1.0) * (1 + wobble * rng.normal())
            for name, number in a.items()
        }
        rows.append({"A": a, "B": b})
    return rows


def _compared(
    rows: list[dict[str, Any]], speakers: list[str | None] | None = None, **names: str
) -> dict[str, Any]:
    names = names or {"A": "runs/one", "B": "runs/two"}
    unknown = [None] * len(rows)
    return summarize_between(rows, names, speakers or unknown, seed=0, resamples=300)


def _swapped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"A": row["B"], "B": row["A"]} for row in rows]


ALL_BETTER = {"lsd": 0.9, "lsd_hf": 0.9, "lsd_lf": 0.95, "l1": 0.99, "env_r": 0.05, "si_sdr": 0.5}


@pytest.mark.parametrize(
    "changes, heading",
    [
        (ALL_BETTER, "B is better than A"),
        ({"lsd": 0.9}, "B is better than A"),
        ({"lsd": 0.9, "env_r": -0.015}, "B is better than A"),
        ({"lsd": 0.9, "env_r": -0.03}, "B has a lower LSD than A, but its env-r is not shown"),
        ({"lsd": 0.9, "lsd_lf": 1.03}, "B has a lower LSD than A, but its LSD-LF is not shown"),
        ({"lsd": 0.9, "lsd_hf": 1.03}, "B has a lower LSD than A, but its LSD-HF is not shown"),
        ({"lsd": 0.9, "l1": 1.02}, "B has a lower LSD than A, but its L1 is not shown to hold"),
        ({"lsd": 0.9, "si_sdr": -0.6}, "B has a lower LSD than A, but its SI-SDR is not shown"),
        (
            {"lsd": 0.9, "l1": 1.02, "env_r": -0.1, "lsd_lf": 1.1},
            "B has a lower LSD than A, but its LSD-LF, env-r and L1 are not shown to hold",
        ),
        ({}, "Neither A nor B is shown to be better"),
        ({"lsd_hf": 0.5, "env_r": 0.3}, "Neither A nor B is shown to be better"),
    ],
)
def test_better_needs_everything_and_mirrors(changes: dict[str, float], heading: str) -> None:
    rows = _rows(**changes)
    if not changes or "lsd" not in changes:
        for place, row in enumerate(rows):  # Up and down alike, so that nothing leans.
            row["B"]["lsd"] = row["A"]["lsd"] * (1 + 0.01 * (-1) ** place)
    (found,) = _compared(rows)["comparisons"]
    assert found["verdict"]["heading"].startswith(heading)
    (mirrored,) = _compared(_swapped(rows))["comparisons"]
    swap = heading.translate(str.maketrans("AB", "BA")).replace("LSA", "LSD")
    if heading.startswith("Neither"):
        swap = heading
    assert mirrored["verdict"]["heading"].startswith(swap)
    for one, sides in ((found, "BA"), (mirrored, "AB")):  # Numbers in the heading's direction.
        if not heading.startswith("Neither"):
            told = " ".join(one["verdict"]["sentences"])
            assert f"LSD of {sides[0]} is 0.9" in told
            assert f"env-r of {sides[0]} differs by" in told
            assert f" of {sides[1]} " not in told
    kinds = {"B is": ("good", "bad"), "B ha": ("mixed", "mixed"), "Neit": ("mixed", "mixed")}
    assert (found["verdict"]["kind"], mirrored["verdict"]["kind"]) == kinds[heading[:4]]


def test_every_number_is_paired_by_clip_with_the_projects_own_intervals() -> None:
    rows = _rows(wobble=0.05, **ALL_BETTER)
    summary = _compared(rows)
    (found,) = summary["comparisons"]
    assert [each["metric"] for each in found["metrics"]] == list(METRIC_NAMES)
    for each in found["metrics"]:
        a, b = ([row[system][each["metric"]] for row in rows] for system in "AB")
        clips = range(len(rows))
        if each["as_ratio"]:
            expected = clustered_ratio_interval(b, a, clips, 0, 300, "clip")
        else:
            differences = [one - other for one, other in zip(b, a, strict=True)]
            expected = clustered_interval(differences, clips, 0, 300, "clip")
        assert each["interval"] == expected.to_dict()
        for system, numbers in (("A", a), ("B", b)):
            mean = summary["systems"][system][each["metric"]]
            assert mean == clustered_interval(numbers, clips, 0, 300, "clip").to_dict()
    assert {each["metric"] for each in found["metrics"] if each["holds"] is None} == {
        "lsd_hf_shape"
    }
    told = found["verdict"]["sentences"]
    assert found["names"] == "A is runs/one, B is runs/two."
    assert told[0].startswith("LSD of B is 0.9")
    assert "8 clips; the upper end must lie" in told[0]
    assert any(text.startswith("env-r of B differs by +0.0") for text in told)
    assert "Who speaks is unknown" in told[-1]


def test_pairing_finds_what_unpaired_intervals_hide() -> None:
    """Clips differ by half, the decoders by two percent on each."""
    rows = _rows(lsd=0.98, wobble=1e-4)
    summary = _compared(rows)
    (found,) = summary["comparisons"]
    a, b = (summary["systems"][system]["lsd"] for system in "AB")
    assert b["high"] > a["low"]
    assert found["verdict"]["heading"] == "B is better than A"


def test_speakers_are_the_units_where_they_are_known() -> None:
    rows = _rows(12, **ALL_BETTER)
    speakers: list[str | None] = [f"speaker {n // 2}" for n in range(12)]
    summary = _compared(rows, speakers)
    assert summary["units"]["kind"] == "speaker"
    assert summary["units"]["count"] == 6
    (found,) = _compared(rows, ["one", "two"] * 6)["comparisons"]
    assert found["verdict"]["heading"] == "No verdict"
    assert "A verdict needs 5 known speakers" in found["verdict"]["sentences"][0]


def test_what_cannot_be_judged_says_why() -> None:
    (few,) = _compared(_rows(4, **ALL_BETTER))["comparisons"]
    assert few["verdict"]["heading"] == "No verdict"
    assert "4 clips; a verdict needs 5." in few["verdict"]["sentences"]
    (none,) = _compared([])["comparisons"]
    assert none["verdict"]["heading"] == "No verdict"
    torn = _rows(**ALL_BETTER)
    torn[3]["B"]["lsd"] = None
    (found,) = _compared(torn)["comparisons"]
    assert found["verdict"]["heading"] == "No verdict"
    assert "undefined for one of the two on 1 of 8 clips" in found["verdict"]["sentences"][0]
    torn = _rows(**ALL_BETTER)
    torn[3]["B"]["si_sdr"] = None
    (found,) = _compared(torn)["comparisons"]
    assert found["verdict"]["heading"].endswith("its SI-SDR is not shown to hold")
    (metric,) = (each for each in found["metrics"] if each["metric"] == "si_sdr")
    assert metric["holds"] is False


def test_two_that_measure_the_same_are_called_identical() -> None:
    rows = [{"A": row["A"], "B": dict(row["A"])} for row in _rows()]
    (found,) = _compared(rows)["comparisons"]
    assert found["verdict"]["heading"] == "A and B are identical on these clips"
    assert found["verdict"]["kind"] == "mixed"
    (one,) = _compared(rows[:1])["comparisons"]
    assert one["verdict"]["sentences"][0] == "Every number of A equals B's on the one clip."
    rows[7]["B"]["l1"] += 1e-9
    (found,) = _compared(rows)["comparisons"]
    assert found["verdict"]["heading"] == "Neither A nor B is shown to be better"


def test_of_several_each_is_held_to_the_first() -> None:
    rows = [{**row, "C": row["A"]} for row in _rows(**ALL_BETTER)]
    summary = _compared(rows, A="one", B="two", C="three")
    pairs = [(each["first"], each["second"]) for each in summary["comparisons"]]
    assert pairs == [("A", "B"), ("A", "C")]
    headings = [each["verdict"]["heading"] for each in summary["comparisons"]]
    assert headings == ["B is better than A", "A and C are identical on these clips"]


def test_the_text_has_every_number_and_where_it_is_from() -> None:
    decoder = {"source": "export", "codec": "tiny", "codec_sha256": "cd" * 32}
    summary = {
        **_compared(_rows(**ALL_BETTER)),
        "decoders": {
            "A": {**decoder, "name": "runs/one", "sha256": "aa" * 32},
            "B": {**decoder, "name": "runs/two", "sha256": "bb" * 32},
        },
        "data": {"compared": 8, "wanted": 9, "seconds": 20.0, "name": "unseen"},
        "provenance": {"created": "now", "git_commit": "c0ffee", "config_digest": "d1"},
    }
    text = markdown(summary)
    assert "**B is better than A.** A is runs/one, B is runs/two." in text
    assert "|  | A | B | B against A |\n|---|---|---|---|\n| LSD | " in text
    for metric, name in METRIC_NAMES.items():
        cells = [
            describe_interval(summary["systems"][each][metric], digits(metric)) for each in "AB"
        ]
        assert f"\n| {name} | {' | '.join(cells)} | " in text
    assert "aa" * 32 in text
    assert "bb" * 32 in text
    assert "cd" * 32 in text
