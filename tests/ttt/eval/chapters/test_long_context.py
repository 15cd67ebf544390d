"""Long-context numbers against hand values, numpy and simulation."""

import dataclasses
import json

import numpy as np
import pytest

from tests.ttt.eval.long_records import noisy_loss, record
from ttt.eval.chapters.long_context import legacy, speaker_interval, summarize
from ttt.eval.chapters.measures import LOSSES, measure_chapter
from ttt.eval.config import LongContextConfig

SMALL = LongContextConfig(positions=(20, 100), window_frames=20, min_slope_frames=10, resamples=400)


def _chapters(losses: list[np.ndarray], speakers: list[str], **settings: object) -> list:
    config = LongContextConfig(**{**SMALL.to_dict(), "positions": (20, 100), **settings})  # type: ignore[arg-type]
    return [
        measure_chapter(record(loss, f"{speaker}/{k}", speaker), 30, config)
        for k, (loss, speaker) in enumerate(zip(losses, speakers, strict=True))
    ]


def test_weights_by_hand() -> None:
    nll = np.arange(8.0)[:, None] + np.zeros(50)
    values = measure_chapter(record(nll), 30, SMALL).values
    assert values["moshi"]["mean"] == pytest.approx(28 / 107)  # (100*0 + 1 + ... + 7) / 107
    assert values["uniform"]["mean"] == pytest.approx(3.5)
    assert values["semantic"]["mean"] == 0
    assert values["acoustic"]["mean"] == pytest.approx(4)
    assert LOSSES["moshi"][0] == 100 / 107
    assert all(sum(weights) == pytest.approx(1) for weights in LOSSES.values())


def test_loss_at_a_position_is_the_mean_around_it_or_null() -> None:
    loss = np.arange(109.0)
    values = measure_chapter(record(loss), 30, SMALL).values["uniform"]
    assert values["at_20"] == pytest.approx(np.arange(10, 30).mean())
    assert values["at_100"] is None  # needs 110 frames; never the last value
    assert measure_chapter(record(np.arange(110.0)), 30, SMALL).values["uniform"]["at_100"] == (
        pytest.approx(np.arange(90, 110).mean())
    )


def test_a_short_chapter_is_still_scored() -> None:
    short = measure_chapter(record(np.arange(12.0)), 30, SMALL)
    values = short.values["uniform"]
    assert values["mean"] == pytest.approx(5.5)
    assert {value for name, value in values.items() if name != "mean"} == {None}
    summary = summarize([short], 30, SMALL)["losses"]["uniform"]
    assert summary["positions"]["20"]["reason"] == "no chapter is long enough"


def test_slopes_are_numpys_beyond_the_window() -> None:
    loss = np.random.default_rng(0).normal(size=300)
    values = measure_chapter(record(loss), 30, SMALL).values["semantic"]
    x, y = np.arange(30, 300), loss[30:].astype(np.float32)
    assert values["slope_per_frame"] == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-9)
    assert values["slope_per_doubling"] == pytest.approx(np.polyfit(np.log2(x), y, 1)[0], rel=1e-9)
    assert values["beyond_window"] == pytest.approx(y.mean(), rel=1e-6)
    assert (
        measure_chapter(record(loss[:39]), 30, SMALL).values["semantic"]["slope_per_frame"] is None
    )


@pytest.mark.parametrize("startup", [0, 29, 30, 60, 120])
def test_slopes_begin_behind_the_window_and_behind_start_up(startup: int) -> None:
    loss = np.where(np.arange(200) < 60, 5.0, 3.0)  # flat, but for what is start-up until frame 60
    config = dataclasses.replace(SMALL, startup_frames=startup)
    chapters = [measure_chapter(record(loss, f"{k}/c", str(k)), 30, config) for k in range(5)]
    summary = summarize(chapters, 30, config)
    found = summary["losses"]["moshi"]["measures"]
    assert summary["settled_from"] == max(30, startup)
    flat = startup >= 60
    for name in ("slope_per_frame", "slope_per_doubling"):
        assert (abs(found[name]["mean"]) < 1e-12) == flat, name
    assert (found["settled"]["mean"] == pytest.approx(3.0)) == flat
    assert found["beyond_window"]["mean"] == pytest.approx(3 + 2 * 30 / 170)


@pytest.mark.parametrize("frames", [158, 160, 165, 174])
def test_a_pattern_that_repeats_tilts_no_slope(frames: int) -> None:
    # A cue and its answer cost differently; over single frames a line between them is tilted.
    loss = np.tile([0.7, 2.1, 0.0, 2.1], 50)[:frames]
    for period, flat in ((1, False), (4, True), (8, True)):
        config = dataclasses.replace(SMALL, slope_period_frames=period)
        values = measure_chapter(record(loss), 30, config).values["moshi"]
        for name in ("slope_per_frame", "slope_per_doubling"):
            assert (abs(values[name] or 0.0) < 1e-8) == flat, (period, name)


def test_a_slope_of_periods_is_that_of_their_means() -> None:
    loss = np.random.default_rng(1).normal(size=207)
    chapter = measure_chapter(record(loss), 30, dataclasses.replace(SMALL, slope_period_frames=8))
    means = loss[30:206].astype(np.float32).reshape(22, 8).mean(1)
    at = np.arange(30, 206).reshape(22, 8).mean(1)
    found = chapter.values["acoustic"]
    assert found["slope_per_frame"] == pytest.approx(np.polyfit(at, means, 1)[0], rel=1e-5)
    known = chapter.slope_information["slope_per_frame"]
    assert known == pytest.approx(8 * 22 * at.var())


@pytest.mark.parametrize("speakers", [5, 12])
def test_an_interval_holds_the_planted_slope_as_often_as_it_says(speakers: int) -> None:
    # Speakers with slopes of their own around the planted one, two chapters each.
    planted, rounds, hits, flat_hits = -2e-3, 200, 0, 0
    rng = np.random.default_rng(speakers)
    x = np.arange(200)
    names = [str(k // 2) for k in range(2 * speakers)]

    def slopes(losses: list[np.ndarray]) -> list[float]:
        measured = _chapters(losses, names)
        return [chapter.values["semantic"]["slope_per_frame"] for chapter in measured]

    for _ in range(rounds):
        own = rng.normal(planted, 1e-2, speakers)
        losses = [own[k // 2] * x + rng.normal(0, 2, 200) for k in range(2 * speakers)]
        interval = speaker_interval(slopes(losses), names, SMALL)
        hits += interval.low <= planted <= interval.high  # type: ignore[operator]
        flat = speaker_interval(slopes([loss - planted * x for loss in losses]), names, SMALL)
        flat_hits += flat.low <= 0 <= flat.high  # type: ignore[operator]
    # Standard error of a share of 0.95 in 200 rounds: 0.015.
    assert hits / rounds >= 0.90
    assert flat_hits / rounds >= 0.90


def test_chapters_of_one_speaker_do_not_count_as_independent() -> None:
    rng = np.random.default_rng(2)
    offsets = rng.normal(0, 1, 6)
    losses = [offsets[k // 10] + rng.normal(0, 0.01, 60) for k in range(60)]
    clustered = _chapters(losses, [str(k // 10) for k in range(60)])
    alone = _chapters(losses, [str(k) for k in range(60)])
    wide, narrow = (
        summarize(chapters, 30, SMALL)["losses"]["uniform"]["measures"]["mean"]
        for chapters in (clustered, alone)
    )
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


def test_fewer_than_five_speakers_have_no_interval_and_say_why() -> None:
    losses = [np.full(60, float(k)) for k in range(8)]
    four = summarize(_chapters(losses, [str(k % 4) for k in range(8)]), 30, SMALL)
    mean = four["losses"]["moshi"]["measures"]["mean"]
    assert mean == {
        "mean": pytest.approx(3.5), "low": None, "high": None, "n": 8,
        "reason": "4 speakers; an interval needs 5",
    }  # fmt: skip
    five = summarize(_chapters(losses, [str(k % 5) for k in range(8)]), 30, SMALL)
    assert five["losses"]["moshi"]["measures"]["mean"]["reason"] is None


def test_the_curve_is_the_mean_of_its_bins_and_counts_chapters() -> None:
    losses = [np.arange(64.0), np.arange(64.0) + 2, np.arange(40.0)]
    loss = summarize(_chapters(losses, ["a", "b", "c"]), 30, SMALL)["losses"]["uniform"]
    curve, balanced = loss["curve"], loss["balanced_curve"]
    # Edges 0 16 19 23 27 32 38 45 54 64
    assert curve["n"] == [3, 3, 3, 3, 3, 3, 2, 2, 2]
    assert curve["mean"][0] == pytest.approx(7.5 + 2 / 3)
    assert curve["mean"][-1] == pytest.approx(np.arange(54, 64).mean() + 1)
    assert curve["frame"][-1] == pytest.approx((54 * 64) ** 0.5, abs=0.1)
    assert balanced["min_frames"] == 64
    assert balanced["n"] == [2] * 9
    assert balanced["mean"][0] == pytest.approx(8.5)


def test_utilisation_by_hand() -> None:
    # Falls by 3 within the window of 30, and by 1 beyond it.
    loss = np.concatenate([np.full(15, 5.0), np.full(15, 2.0), np.full(30, 1.0)])
    use = summarize(_chapters([loss] * 5, list("abcde")), 30, SMALL)["losses"]["uniform"]
    use = use["utilisation"]
    assert use["gain_within_window"]["mean"] == pytest.approx(3)
    assert use["gain_beyond_window"]["mean"] == pytest.approx(1)
    assert use["share_beyond_window"]["mean"] == pytest.approx(0.25)
    rising = summarize(_chapters([loss[::-1]] * 5, list("abcde")), 30, SMALL)["losses"]["uniform"]
    share = rising["utilisation"]["share_beyond_window"]
    assert share["mean"] is None
    assert share["reason"] == "the loss does not fall on the whole"


def test_legacy_keys_hold_window_means() -> None:
    config = LongContextConfig(positions=(8000, 16000), min_slope_frames=10)
    loss = 3 - 1e-4 * np.arange(9000.0)
    chapter = measure_chapter(record(loss), 3000, config)
    written = legacy(json.loads(json.dumps(summarize([chapter], 3000, config))))
    assert written == {
        "librilight_loss_8k": pytest.approx(3 - 1e-4 * 7999.5, abs=1e-5),
        "librilight_loss_16k": None,
        "librilight_loss_24k": None,
        "librilight_slope": pytest.approx(-1e-4, rel=1e-4),
        "librilight_samples": 1,
    }


def test_the_loss_between_neighbours_is_noise_that_windows_average_out() -> None:
    rng = np.random.default_rng(3)
    single, windows = [], []
    for _ in range(40):
        loss = noisy_loss(rng, 300)
        values = measure_chapter(record(loss), 30, SMALL).values["uniform"]
        single.append(loss[100])
        windows.append(values["at_100"])
    assert np.std(windows) < 0.5 * np.std(single)


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in (
        {"positions": (100,), "window_frames": 1000}, {"window_frames": 7}, {"resamples": 0},
        {"bins_per_octave": 0}, {"min_slope_frames": 2}, {"positions": ()},
        {"startup_frames": -1}, {"slope_period_frames": 0}, {"equivalence_margin": 0.0},
        {"equivalence_margin": -0.002},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=list(wrong)[-1]):
            LongContextConfig(**wrong)  # type: ignore[arg-type]
