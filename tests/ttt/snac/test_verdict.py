"""The verdict says better only where it was shown, and noise does not win."""

import numpy as np
import pytest
import torch

from ttt.snac.metrics import all_metrics
from ttt.snac.model_card import card
from ttt.snac.verdict import (
    BASELINE,
    CEILING,
    OURS,
    check_metrics_together,
    describe_interval,
    judge,
    summarize,
)
from ttt.stats import Interval


def _rows(lsd: float, lsd_lf: float = 1.0, l1: float = 1.0, clips: int = 8) -> list:
    """Ours as given multiples of a baseline that differs by clip."""
    rows = []
    for clip in range(clips):
        base = {"lsd": 2.0 + clip, "lsd_lf": 1.0, "lsd_hf": 4.0, "si_sdr": 5.0, "l1": 0.01}
        wobble = 1 + 0.001 * (-1) ** clip
        ours = {
            **base,
            "lsd": base["lsd"] * lsd * wobble,
            "lsd_lf": base["lsd_lf"] * lsd_lf,
            "l1": base["l1"] * l1,
        }
        rows.append({OURS: ours, BASELINE: base, CEILING: base})
    return rows


def _verdict(rows: list) -> dict:
    return summarize(rows, seed=0, resamples=500)["verdict"]


def test_better_needs_lsd_and_both_guards() -> None:
    good = _verdict(_rows(0.6))
    assert (good["kind"], good["heading"]) == ("good", "Better than resampling")
    assert "LSD is 0.600 times" in good["sentences"][0]
    assert "8 clips" in good["sentences"][0]
    lf = _verdict(_rows(0.6, lsd_lf=1.03))
    assert lf["kind"] == "mixed"
    assert lf["heading"] == "Lower LSD than resampling, but LSD-LF got worse"
    assert "won by noise" in lf["sentences"][-1]
    both = _verdict(_rows(0.6, lsd_lf=1.03, l1=1.02))
    assert "LSD-LF and L1 got worse" in both["heading"]
    assert _verdict(_rows(1.2))["heading"] == "Worse than resampling"
    assert _verdict(_rows(1.0))["heading"] == "Not shown to be better than resampling"


def test_one_clip_gives_no_verdict_and_no_zeros() -> None:
    summary = summarize(_rows(0.5, clips=1), seed=0, resamples=100)
    assert summary["verdict"]["heading"] == "No verdict"
    assert summary["systems"][OURS]["lsd"]["low"] is None
    assert summary["systems"][OURS]["lsd"]["mean"] == pytest.approx(1.001)


def test_summary_by_hand_and_undefined_values_counted_out() -> None:
    rows = _rows(0.5, clips=4)
    rows[2][OURS]["si_sdr"] = None
    summary = summarize(rows, seed=0, resamples=100)
    assert summary["systems"][BASELINE]["lsd"]["mean"] == 3.5
    assert summary["systems"][OURS]["si_sdr"]["n"] == 3
    assert summary["systems"][OURS]["lsd"]["n"] == 4
    ratio = summary["ratios_to_resampled_decode24"]["lsd"]
    assert ratio["mean"] == pytest.approx(0.5 * (2.002 + 2.997 + 4.004 + 4.995) / 14)


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
    assert "L1 got worse" in verdict["heading"]


def test_lsd_never_travels_alone() -> None:
    check_metrics_together(["l1", "si_sdr"])
    check_metrics_together(["lsd_hf", "lsd_lf", "l1"])
    with pytest.raises(ValueError, match="won by noise: show l1 and lsd_lf beside it"):
        check_metrics_together(["lsd_hf"])
    with pytest.raises(ValueError, match="show l1 beside it"):
        check_metrics_together(["lsd", "lsd_lf"])
    with pytest.raises(ValueError, match="won by noise"):
        judge({"lsd": Interval(0.5, 0.4, 0.6, 9)})


def test_intervals_in_words() -> None:
    assert describe_interval(Interval(0.5, 0.25, 0.75, 3).to_dict(), 2) == "0.50 [0.25, 0.75]"
    assert describe_interval(Interval(0.5, None, None, 1, "one").to_dict()) == "0.500 (no interval)"
    assert describe_interval(Interval(None, None, None, 0, "none").to_dict()) == "–"


def test_model_card_has_the_numbers_and_the_two_lines() -> None:
    summary = {
        **summarize(_rows(0.6), seed=0, resamples=100),
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
    assert "8 clips (32 s) of 9" in text
