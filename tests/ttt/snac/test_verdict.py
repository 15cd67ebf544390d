"""The verdict says better only where it was shown, and names what fails."""

import copy
import json

import numpy as np
import pytest
import torch

from ttt.snac.evaluation.card import card
from ttt.snac.evaluation.comparisons import units_of
from ttt.snac.evaluation.systems import with_tricks
from ttt.snac.evaluation.trick_levels import (
    GRID,
    NO_FOLDING,
    FittedTricks,
    Folding,
    Level,
    TrickGrid,
)
from ttt.snac.metrics import METRICS, all_metrics
from ttt.snac.verdict import (
    BASELINE,
    CEILING,
    OURS,
    SILENCE,
    check_metrics_together,
    describe_interval,
    judge,
    summarize,
)
from ttt.statistics.intervals import Interval


def _rows(clips: int = 8, **factors: float) -> list:
    """Ours as multiples of a baseline that differs by clip (SI-SDR and env-r: as sums).

    Hiss has an LSD-HF of 2 and env-r of .1 at its best, folding + hiss of 2.125 and .4; resampling
    4 and .3. Ours has 1.8 and .6 unless told otherwise.
    """
    rows = []
    for clip in range(clips):
        base = {
            "lsd": 2.0 + clip, "lsd_lf": 1.0, "lsd_hf": 4.0, "env_r": 0.3, "si_sdr": 5.0,
            "l1": 0.01,
        }  # fmt: skip
        wobble = 0.001 * (-1) ** clip
        ours = {
            **{name: base[name] * factors.get(name, 1.0) * (1 + wobble) for name in base},
            "lsd_lf": base["lsd_lf"] * factors.get("lsd_lf", 1.0),
            "l1": base["l1"] * factors.get("l1", 1.0),
            "env_r": factors.get("env_r", 0.6) + wobble,
            "si_sdr": base["si_sdr"] + factors.get("si_sdr", 0.0) + wobble,
            "lsd_hf": factors.get("lsd_hf", 1.8) + wobble,
        }
        tables = {name: np.full((2, 2), base[name]) for name in METRICS}
        tables |= {
            "lsd_hf": np.array([[3.0, 2.0], [3.0, 2.125]]),
            "env_r": np.array([[0.2, 0.1], [0.45, 0.4]]),
        }
        silence = {**base, "lsd_lf": 6.0, "l1": 0.02, "si_sdr": -100.0}
        rows.append({OURS: ours, BASELINE: base, CEILING: base, SILENCE: silence})
        rows[-1][GRID] = _grid(tables)
    return rows


FLAT = Folding(-20, falls=False)


def _grid(tables: dict) -> dict:
    return TrickGrid((-90, -80), (NO_FOLDING, FLAT), tables).to_dict()


def _without(grid: dict, *metrics: str) -> dict:
    """The grid with these undefined."""
    tables = TrickGrid.from_dict(grid).tables
    return _grid({n: table * np.nan if n in metrics else table for n, table in tables.items()})


def _verdict(rows: list, **options: object) -> dict:
    return summarize(rows, 0, 500, **options)["verdict"]  # pyright: ignore[reportArgumentType]


def test_better_needs_everything_to_hold() -> None:
    good = _verdict(_rows(lsd=0.6))
    assert (good["kind"], good["heading"]) == ("good", "Better than resampling")
    assert "LSD is 0.600 times" in good["sentences"][0]
    assert "8 clips" in good["sentences"][0]
    text = " ".join(good["sentences"])
    assert "Against hiss at its best level on these clips: env-r differs by +0.500" in text
    assert (
        "Against folding + hiss at their best levels on these clips: env-r differs by +0.2" in text
    )
    assert "LSD-HF is 0.900 times as high (95 % interval" in text
    assert "SI-SDR holds: +0.00 dB against resampling's" in text
    assert "Who speaks is unknown, so the 8 clips are the units" in text


@pytest.mark.parametrize(
    "factors, heading",
    [
        ({"lsd_hf": 2.2}, "it knows when there is energy above 12 kHz, not how much"),
        ({"env_r": 0.35}, "it knows how much energy there is above 12 kHz, not when"),
        ({"env_r": 0.35, "lsd_hf": 2.2}, "what costs nothing, hiss or folding, is not shown to be"),
        ({"lsd_lf": 1.03}, "LSD-LF got worse"),
        ({"lsd_lf": 1.03, "l1": 1.02}, "LSD-LF and L1 got worse"),
        ({"si_sdr": -0.51}, "SI-SDR got worse"),
        ({"lsd_hf": 2.2, "l1": 1.02}, "not how much; L1 got worse"),
    ],
)
def test_what_fails_is_named(factors: dict, heading: str) -> None:
    verdict = _verdict(_rows(lsd=0.6, **factors))
    assert verdict["kind"] == "mixed"
    assert verdict["heading"].startswith("Lower LSD than resampling, but ")
    assert heading in verdict["heading"]
    reason = "every guard" if list(factors) == ["si_sdr"] else "won by noise"
    assert reason in verdict["sentences"][-1]


@pytest.mark.parametrize("metric", ["lsd_lf", "l1", "si_sdr"])
@pytest.mark.parametrize(("away", "words"), [(1.0, "not shown to hold"), (0.01, "got worse")])
def test_a_mean_beyond_the_limit_is_not_yet_worse(metric: str, away: float, words: str) -> None:
    """The same mean, between clips that lie far from it and near it."""
    rows = _rows(lsd=0.6)
    for clip, row in enumerate(rows):
        off = away if clip % 2 else -away
        if metric == "si_sdr":
            row[OURS][metric] = row[BASELINE][metric] - 1 + 10 * off
        else:
            row[OURS][metric] = row[BASELINE][metric] * (1.05 + off)
    heading = _verdict(rows)["heading"]
    assert words in heading
    assert ("got worse" in heading) == (words == "got worse")


def test_lsd_itself_decides_first() -> None:
    assert _verdict(_rows(lsd=1.2))["heading"] == "Worse than resampling"
    assert _verdict(_rows(lsd=1.2))["kind"] == "bad"
    assert _verdict(_rows(lsd=1.0))["heading"] == "Not shown to be better than resampling"


def test_a_guard_is_judged_by_the_end_of_its_interval() -> None:
    """Means within the limits, ends beyond."""
    rows = _rows(lsd=0.6)
    for clip, row in enumerate(rows):
        row[OURS]["lsd_lf"] *= 1.1 if clip % 2 else 0.9
    verdict = _verdict(rows)
    assert "LSD-LF is not shown to hold" in verdict["heading"]
    for row in rows:
        row[OURS]["lsd_lf"] = 1.02  # the limit itself
    assert _verdict(rows)["kind"] == "good"


def test_a_tie_in_lsd_hf_counts_and_a_tie_in_env_r_does_not() -> None:
    rows = _rows(lsd=0.6)
    for row in rows:
        row[OURS]["lsd_hf"] = 2.0
    assert _verdict(rows)["kind"] == "good"
    for row in rows:
        row[OURS]["env_r"] = 0.4
    assert _verdict(rows)["kind"] == "mixed"


def test_levels_from_validation_are_judged_beside_those_from_these_clips() -> None:
    weak = Level(NO_FOLDING, -90, 2.5, 0.2, at_end=True)
    before = FittedTricks(weak, Level(FLAT, -90, 2.5, 0.45, at_end=False), 16)
    between = _rows(lsd=0.6, lsd_hf=2.5)
    verdict = _verdict(between, fitted=before)
    assert verdict["kind"] == "mixed"
    assert "(by tricks whose level comes from these clips)" in verdict["heading"]
    assert any("hiss at the level from validation" in text for text in verdict["sentences"])
    summary = summarize(_rows(lsd=0.6), 0, 200, fitted=before)
    assert summary["verdict"]["kind"] == "good"
    assert summary["systems"]["hiss_fitted_before"]["lsd_hf"]["mean"] == 3.0
    assert summary["systems"]["hiss"]["lsd_hf"]["mean"] == 2.0
    assert summary["tricks"]["validation"]["hiss"]["hiss_db"] == -90
    assert summary["tricks"]["here"]["folding_hiss"]["folding"]["decibels"] == -20
    # Where each decoder brought levels of its own, the rows carry them.
    carried = summarize(with_tricks(between, before, None), 0, 200)
    assert carried["comparisons"] == summarize(between, 0, 200, fitted=before)["comparisons"]
    # Levels of another grid were not measured here, so nothing holds against them.
    other = FittedTricks(Level(NO_FOLDING, -77, 2.5, 0.2, at_end=False), before.folding_hiss, 16)
    assert _verdict(_rows(lsd=0.6), fitted=other)["kind"] == "mixed"


def test_where_silence_passes_a_guard_the_sentence_says_so() -> None:
    rows = _rows(lsd=0.6)
    assert not any("silence" in text.lower() for text in _verdict(rows)["sentences"])
    for row in rows:
        row[SILENCE]["l1"] = 0.0099
    (told,) = (text for text in _verdict(rows)["sentences"] if "Silence" in text)
    assert told.startswith("L1 holds: 1.000 times")
    assert told.endswith("Silence passes it on these clips too, so it guards little here.")


def test_a_guard_that_fails_is_not_said_to_be_unable_to() -> None:
    rows = _rows(lsd=0.6, l1=1.092)
    for row in rows:
        row[SILENCE]["l1"] = 0.0099
    (told,) = (text for text in _verdict(rows)["sentences"] if text.startswith("L1 "))
    assert told.startswith("L1 does not hold: 1.092 times")
    assert told.endswith("1.01. Silence would pass it on these clips.")


def test_where_resampling_has_no_waveform_to_keep_the_sentence_says_so() -> None:
    rows = _rows(lsd=0.6)
    assert "does not follow the waveform" not in " ".join(_verdict(rows)["sentences"])
    for row in rows:
        row[OURS]["si_sdr"] -= 40
        row[BASELINE]["si_sdr"] -= 40
    (told,) = (s for s in _verdict(rows)["sentences"] if s.startswith("SI-SDR holds"))
    assert "At -35.0 dB resampling does not follow the waveform either" in told


def _former(rows: list) -> list:
    """As commit 8b30563 wrote them."""
    return [
        {
            system: {name: number for name, number in row[system].items() if name != "env_r"}
            for system in (OURS, BASELINE, CEILING)
        }
        for row in rows
    ]


@pytest.mark.parametrize("old", [8, 7, 1])
def test_rows_without_tricks_are_read_and_never_better(old: int) -> None:
    rows = _rows(lsd=0.6)
    rows = [*_former(rows[:old]), *rows[old:]]
    summary = summarize(rows, 0, 100)
    verdict = summary["verdict"]
    assert verdict["kind"] == "mixed"
    assert summary["ratios_to_resampled_decode24"]["lsd"]["high"] < 1
    if old == 8:
        assert "hiss and folding were not measured beside it" in verdict["heading"]
        assert "hiss" not in summary["systems"]
        assert describe_interval(summary["systems"][OURS]["env_r"]) == "not measured"
        assert any("Whether silence would pass was not measured" in s for s in verdict["sentences"])
    else:
        assert any(f"not measured on {old} of 8 clips" in text for text in verdict["sentences"])


def _spoiled(rows: list, change: str) -> list:
    rows = copy.deepcopy(rows)
    row = rows[3]
    if change == "ours":
        row[OURS] = dict.fromkeys(METRICS)
    elif change == "nan":
        row[OURS] = dict.fromkeys(METRICS, float("nan"))
    elif change == "baseline":
        row[BASELINE] = dict.fromkeys(METRICS)
    elif change == "grid":
        row[GRID] = _without(row[GRID], "env_r")
    else:
        row[OURS][change] = None
    return rows


@pytest.mark.parametrize("change", ["ours", "nan", "baseline", "grid", *METRICS])
def test_what_only_one_of_the_two_has_makes_nothing_better(change: str) -> None:
    assert _verdict(_rows(lsd=0.6))["kind"] == "good"
    assert _verdict(_spoiled(_rows(lsd=0.6), change))["kind"] != "good"


def test_what_both_lack_is_left_out() -> None:
    """Silence has no SI-SDR and no envelope; three such clips of eight leave five."""
    rows = _rows(lsd=0.6)
    for row in rows[:3]:
        for system in (OURS, BASELINE, SILENCE):
            row[system]["si_sdr"] = row[system]["env_r"] = None
        row[GRID] = _without(row[GRID], "env_r", "si_sdr")
    assert _verdict(rows)["kind"] == "good"
    for system in (OURS, BASELINE, SILENCE):
        rows[3][system]["env_r"] = None
    rows[3][GRID] = _without(rows[3][GRID], "env_r")
    verdict = _verdict(rows)  # four clips have no interval
    assert verdict["kind"] == "mixed"
    assert "4 clips; an interval needs 5" in " ".join(verdict["sentences"])


SPEAKERS = {
    "unknown": ([None] * 8, "good", "Who speaks is unknown"),
    "eight": (list("abcdefgh"), "good", "the 8 speakers of the 8 clips"),
    "five": (list("abcdeabc"), "good", "the 5 speakers of the 8 clips"),
    "one": (["x"] * 8, "good", "of one speaker (x): clips are the units"),
    "two": (list("aaaabbbb"), "bad", "of 2 known speakers. A verdict needs 5"),
    "four": (list("abcdabcd"), "bad", "of 4 known speakers. A verdict needs 5"),
    "four and unknown": (
        [*"abcdabc", None],
        "bad",
        "of 4 known speakers, and of unknown ones (1 clips)",
    ),
    "one and unknown": ([*"aaaaaaa", None], "bad", "of 1 known speaker, and of unknown ones"),
    "five and unknown": ([*"abcde", *[None] * 3], "good", "the 3 of unknown speakers count as one"),
}


@pytest.mark.parametrize("speakers, kind, told", SPEAKERS.values(), ids=SPEAKERS)
def test_units_are_speakers_where_there_are_several(speakers: list, kind: str, told: str) -> None:
    verdict = _verdict(_rows(lsd=0.6), speakers=speakers)
    assert verdict["kind"] == kind
    assert told in " ".join(verdict["sentences"])
    assert verdict["heading"].endswith("for this speaker") == (set(speakers) == {"x"})
    assert (verdict["heading"] == "No verdict") == (kind == "bad")


@pytest.mark.parametrize("clips", [1, 2, 4])
def test_fewer_than_five_clips_give_no_verdict_no_interval_and_no_zeros(clips: int) -> None:
    summary = summarize(_rows(lsd=0.5, clips=clips), seed=0, resamples=100)
    assert summary["verdict"]["kind"] != "good"
    assert summary["verdict"]["heading"] == "No verdict"
    assert "a verdict needs 5" in summary["verdict"]["sentences"][0]
    assert summary["systems"][OURS]["lsd"]["low"] is None
    assert summary["systems"][OURS]["lsd"]["mean"] is not None
    assert summarize([], 0, 100)["verdict"]["heading"] == "No verdict"


def test_a_summary_is_plain_json() -> None:
    """Ends that come from NumPy are no JSON; skewed clips have such ends."""
    rows = _rows(lsd=0.6, clips=12)
    for clip, row in enumerate(rows):
        row[OURS]["lsd"] *= float(np.exp(clip / 4))
    before = FittedTricks(*[Level(FLAT, -90, 2.5, None, at_end=False)] * 2, 3)
    summary = summarize(rows, 0, 200, fitted=before)
    assert json.loads(json.dumps(summary, allow_nan=False)) == json.loads(json.dumps(summary))
    for comparison in summary["comparisons"]:
        assert type(comparison["holds"]) is bool
        assert type(comparison["interval"]["high"]) is float


def test_speakers_widen_what_their_clips_share() -> None:
    """Ten speakers with four clips each that resemble one another."""
    rows = _rows(lsd=0.6, clips=40)
    speakers = [str(clip // 4) for clip in range(40)]
    for clip, row in enumerate(rows):
        row[OURS]["lsd"] *= 1 + 0.3 * np.sin(clip // 4)
    alone = summarize(rows, 0, 1000)["ratios_to_resampled_decode24"]["lsd"]
    units = summarize(rows, 0, 1000, speakers=speakers)["ratios_to_resampled_decode24"]["lsd"]
    assert units["mean"] == alone["mean"]
    assert units["high"] - units["low"] > 1.5 * (alone["high"] - alone["low"])
    assert units_of(speakers).count == 10


def test_summary_by_hand_and_undefined_values_counted_out() -> None:
    rows = _rows(lsd=0.5, clips=5)
    rows[2][OURS]["si_sdr"] = None
    summary = summarize(rows, seed=0, resamples=100)
    assert summary["systems"][BASELINE]["lsd"]["mean"] == 4.0
    assert summary["systems"][OURS]["si_sdr"]["n"] == 4
    assert summary["systems"][OURS]["lsd"]["n"] == 5
    ratio = summary["ratios_to_resampled_decode24"]["lsd"]
    assert ratio["mean"] == pytest.approx(0.5 * (2.002 + 2.997 + 4.004 + 4.995 + 6.006) / 20)


def test_noise_has_a_lower_lsd_than_resampling_and_still_does_not_win() -> None:
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(48_000) / 48_000
    rows = []
    for clip in range(6):
        low = 0.2 * torch.sin(2 * torch.pi * (300 + 50 * clip) * time)
        bright = torch.randn(48_000, generator=generator)
        bright = 0.05 * torch.diff(bright, prepend=bright[:1])
        truth = (low + bright)[None]
        resampled = low[None]
        noisy = resampled + 0.05 * torch.randn(1, 48_000, generator=generator)
        rows.append(
            {
                OURS: {k: float(v[0]) for k, v in all_metrics(noisy, truth).items()},
                BASELINE: {k: float(v[0]) for k, v in all_metrics(resampled, truth).items()},
            }
        )
    lsd = {name: np.mean([row[name]["lsd"] for row in rows]) for name in (OURS, BASELINE)}
    assert lsd[OURS] < 0.7 * lsd[BASELINE]
    verdict = _verdict(rows)
    assert verdict["kind"] == "mixed"
    assert "L1 and SI-SDR got worse" in verdict["heading"]


def test_lsd_never_travels_alone() -> None:
    check_metrics_together(["l1", "si_sdr"])
    check_metrics_together(["lsd_hf", "lsd_lf", "l1"])
    with pytest.raises(ValueError, match="won by noise: show l1 and lsd_lf beside it"):
        check_metrics_together(["lsd_hf"])
    with pytest.raises(ValueError, match="show l1 beside it"):
        check_metrics_together(["lsd", "lsd_lf"])
    with pytest.raises(ValueError, match="won by noise"):
        judge({"lsd": Interval(0.5, 0.4, 0.6, 9)})
    alone = dict.fromkeys(("lsd", "lsd_lf", "l1"), Interval(0.5, 0.4, 0.6, 9))
    assert judge(alone).kind == "mixed"


def test_intervals_in_words() -> None:
    assert describe_interval(Interval(0.5, 0.25, 0.75, 3).to_dict(), 2) == "0.50 [0.25, 0.75]"
    assert describe_interval(Interval(0.5, None, None, 1, "one").to_dict()) == "0.500 (no interval)"
    assert describe_interval(Interval(None, None, None, 0, "none").to_dict()) == "–"


def test_model_card_has_the_numbers_and_the_two_lines() -> None:
    summary = {
        **summarize(_rows(lsd=0.6), seed=0, resamples=100),
        "decoder": {"name": "run/export", "codec": "tiny", "sha256": "ab", "codec_sha256": "cd"},
        "data": {"name": "unseen", "evaluated": 8, "wanted": 9, "seconds": 32.0},
        "provenance": {
            "created": "2025-01-01",
            "git_commit": "abc",
            "config_digest": "def",
            "versions": {"torch": "2.9.1"},
        },
    }
    text = card(summary)
    assert "from ttt.snac.model import Decoder48k" in text
    assert 'Decoder48k.from_pretrained("path/to/this/folder").decode(codes)' in text
    assert "**Better than resampling.**" in text
    assert "| Ours, 48 kHz | 3.3" in text
    assert "| The same + folding + hiss, levels from these clips | " in text
    assert "hiss -80 dB alone; folding -20 dB, hiss -80 dB together" in text
    assert "Levels from the run's validation windows: none" in text
    assert "8 clips (32 s) of 9" in text
