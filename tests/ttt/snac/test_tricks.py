"""Hiss and folding: what they are, and that the grid of levels is what each level measures."""

import json

import numpy as np
import pytest
import torch

from ttt.audio import resample
from ttt.snac.metrics import METRICS, all_metrics
from ttt.snac.trick_levels import GRID, FittedTricks, at_level, fit
from ttt.snac.tricks import (
    FOLDING_DB,
    HISS_DB,
    add_trick,
    high_passed,
    measure_grid,
    white_noise,
    zero_stuffed,
)
from ttt.synthetic_voice import utterance


def _parts(seconds: float = 3.1) -> list[torch.Tensor]:
    """Baseline, image, noise and truth of a voice whose codec is perfect."""
    truth = torch.from_numpy(utterance(3, seconds))
    low = resample(truth, 48_000, 24_000, sharp=True)
    length = len(truth)
    image = zero_stuffed(low)[:length]
    return [resample(low, 24_000, 48_000)[:length], image, white_noise("a", length), truth]


def test_the_grid_is_what_each_pair_of_levels_measures() -> None:
    """On more frames than one block holds; every eleventh pair."""
    baseline, image, noise, truth = parts = _parts()
    grid = measure_grid(*parts)
    pairs = [(f, h) for f in range(len(FOLDING_DB)) for h in range(len(HISS_DB))]
    for f, h in pairs[::11]:
        audio = add_trick(baseline, image, noise, FOLDING_DB[f], HISS_DB[h])
        expected = all_metrics(audio[None], truth[None])
        for metric in METRICS:
            found = grid[metric][f][h]
            assert found == pytest.approx(float(expected[metric]), abs=1e-3), (metric, f, h)
    assert json.loads(json.dumps(grid, allow_nan=False)) == grid


@pytest.mark.parametrize("samples", [4096, 4096 + 256 * 512, 4097])
def test_clips_of_any_length_have_a_grid(samples: int) -> None:
    parts = [part[:samples] for part in _parts()]
    grid = measure_grid(*parts)
    audio = add_trick(*parts[:3], FOLDING_DB[8], HISS_DB[8])
    expected = float(all_metrics(audio[None], parts[3][None])["lsd"])
    assert grid["lsd"][8][8] == pytest.approx(expected, abs=2e-3)


def test_the_lowest_hiss_is_nothing_and_the_levels_are_5_db_apart() -> None:
    baseline, _, _, truth = parts = _parts(1.0)
    nothing, grid = all_metrics(baseline[None], truth[None]), measure_grid(*parts)
    for metric in ("lsd", "lsd_hf"):
        assert grid[metric][0][0] == pytest.approx(float(nothing[metric]), rel=5e-3)
    assert set(np.diff(HISS_DB)) == {5}
    assert set(np.diff([level for level in FOLDING_DB if level is not None])) == {5}
    assert FOLDING_DB[0] is None


def test_folding_is_the_mirrored_band_and_hiss_is_white_above_the_edge() -> None:
    time = torch.arange(24_000) / 24_000
    image = high_passed(zero_stuffed(torch.sin(2 * torch.pi * 5_000 * time)))
    lines = torch.fft.rfft(image).abs() / 24_000
    assert lines.argmax() == 24_000 - 5_000  # one bin per Hz
    assert lines.max() == pytest.approx(1, abs=1e-4)
    assert lines.sum() == pytest.approx(1, abs=5e-2)
    hiss = high_passed(white_noise("clip", 48_000))
    power = torch.fft.rfft(hiss).abs().square() / 48_000
    assert power[:12_300].max() < 1e-8
    halves = power[12_300:24_000].unflatten(0, (2, -1)).mean(dim=1)
    assert halves == pytest.approx([1, 1], abs=0.05)


def test_noise_follows_the_clip_alone() -> None:
    torch.manual_seed(1)
    first = white_noise("a", 100)
    torch.manual_seed(2)
    assert torch.equal(white_noise("a", 100), first)
    assert not torch.equal(white_noise("b", 100), first)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(2)))


def test_undefined_metrics_of_silence_are_none_and_no_level_is_made_up() -> None:
    baseline, image, noise, truth = _parts(1.0)
    grid = measure_grid(baseline, image, noise, torch.zeros_like(truth))
    assert {value for row in grid["env_r"] for value in row} == {None}
    assert {value for row in grid["si_sdr"] for value in row} == {None}
    fitted = fit([{GRID: grid}])
    assert fitted is not None
    assert fitted.hiss.env_r is None
    assert fitted.hiss.hiss_db == HISS_DB[0]  # silence is best met by silence
    broken = measure_grid(baseline, image, noise, torch.full_like(truth, torch.nan))
    assert fit([{GRID: broken}]) is None
    assert fit([]) is None
    assert fit([{"ours_48k": {}}]) is None


def _grid(lsd_hf: list[list[float]], env_r: list[list[float | None]]) -> dict:
    tables = {"lsd_hf": lsd_hf, "env_r": env_r, "lsd": lsd_hf}
    return {"hiss_db": [-90, -80, -70], "folding_db": [None, -20, -10], **tables}


def test_levels_are_chosen_in_the_tricks_favour_by_hand() -> None:
    """Means over two rows: hiss is best at -80 (2.0), pairs up to 2.2 compete by env-r."""
    first = _grid(
        [[3.0, 1.5, 2.5], [2.0, 2.1, 2.0], [2.0, 2.3, 2.0]],
        [[0.0, 0.9, 0.0], [0.3, 0.5, 0.2], [None, 0.6, 0.1]],
    )
    second = _grid(
        [[3.0, 2.5, 2.7], [2.0, 2.1, 2.5], [2.0, 2.3, 2.0]],
        [[0.0, 0.9, 0.0], [0.3, 0.5, 0.2], [0.45, 0.6, 0.1]],
    )
    fitted = fit([{GRID: first}, {GRID: second}, {"ours_48k": {}}])
    assert fitted is not None
    assert (fitted.hiss.folding_db, fitted.hiss.hiss_db, fitted.hiss.lsd_hf) == (None, -80, 2.0)
    assert not fitted.hiss.at_end
    # -10/-80 has .6 at 2.3, too far; -20/-80 has .5 at 2.1.
    assert (fitted.folding_hiss.folding_db, fitted.folding_hiss.hiss_db) == (-20, -80)
    assert fitted.folding_hiss.env_r == pytest.approx(0.5)
    assert fitted.folding_hiss.at_end  # of the two folding levels, both are ends
    assert fitted.rows == 2
    assert fitted.folding_hiss.words == "folding -20 dB, hiss -80 dB"
    assert FittedTricks.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted
    row = at_level({GRID: first}, fitted.folding_hiss)
    assert row == {"lsd_hf": 2.1, "env_r": 0.5, "lsd": 2.1}
    assert at_level({}, fitted.hiss) is None
    other = {**first, "hiss_db": [-95, -85, -75]}
    assert at_level({GRID: other}, fitted.hiss) is None
    alike = fit([{GRID: first}, {GRID: other}])
    assert alike is not None
    assert alike.rows == 1
