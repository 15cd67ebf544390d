"""Hiss and folding: what they are, and that the grid of levels is what each level measures."""

import json

import numpy as np
import pytest
import torch

from ttt.audio import resample
from ttt.snac.evaluation.trick_levels import (
    GRID,
    NO_FOLDING,
    FittedTricks,
    Folding,
    TrickGrid,
    at_level,
    fit,
)
from ttt.snac.evaluation.tricks import (
    FOLDINGS,
    HISS_DB,
    add_trick,
    folding_of,
    high_passed,
    measure_grid,
    white_noise,
    zero_stuffed,
)
from ttt.snac.metrics import METRICS, all_metrics
from ttt.synthetic.voice import utterance


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
    tables = measure_grid(*parts).tables
    pairs = [(f, h) for f in range(len(FOLDINGS)) for h in range(len(HISS_DB))]
    for f, h in pairs[::11]:
        audio = add_trick(baseline, image, noise, FOLDINGS[f], HISS_DB[h])
        expected = all_metrics(audio[None], truth[None])
        for metric in METRICS:
            found = tables[metric][f, h]
            assert found == pytest.approx(float(expected[metric]), abs=1e-3), (metric, f, h)


def test_a_grid_survives_json() -> None:
    grid = measure_grid(*_parts(1.0))
    again = TrickGrid.from_dict(json.loads(json.dumps(grid.to_dict(), allow_nan=False)))
    assert (again.hiss_db, again.foldings) == (grid.hiss_db, grid.foldings)
    for metric, table in grid.tables.items():
        assert np.array_equal(again.tables[metric], table.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("samples", [4096, 4096 + 256 * 512, 4097])
def test_clips_of_any_length_have_a_grid(samples: int) -> None:
    parts = [part[:samples] for part in _parts()]
    grid = measure_grid(*parts)
    audio = add_trick(parts[0], parts[1], parts[2], FOLDINGS[8], HISS_DB[8])
    expected = float(all_metrics(audio[None], parts[3][None])["lsd"])
    assert grid.tables["lsd"][8, 8] == pytest.approx(expected, abs=2e-3)


def test_the_lowest_hiss_is_nothing_and_the_levels_are_5_db_apart() -> None:
    baseline, _, _, truth = parts = _parts(1.0)
    nothing, grid = all_metrics(baseline[None], truth[None]), measure_grid(*parts)
    for metric in ("lsd", "lsd_hf"):
        assert grid.tables[metric][0, 0] == pytest.approx(float(nothing[metric]), rel=5e-3)
    assert set(np.diff(HISS_DB)) == {5}
    for falls in (False, True):
        levels = [f.decibels for f in FOLDINGS if f.falls == falls and f != NO_FOLDING]
        assert set(np.diff(np.array(levels, float))) == {5}
    assert FOLDINGS[0] == NO_FOLDING


def test_falling_folding_is_what_linear_interpolation_leaves() -> None:
    low = torch.randn(12_000)
    between = (low + torch.cat([low[1:], low[:1]])) / 2
    interpolated = high_passed(torch.stack([low, between], dim=1).flatten())
    _, falling = folding_of(zero_stuffed(low))
    # Their ends differ, and a filter as sharp as this one carries that far.
    assert (falling - interpolated)[1_000:-1_000].abs().max() < 0.01


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


def test_undefined_metrics_of_silence_have_no_number_and_no_level_is_made_up() -> None:
    baseline, image, noise, truth = _parts(1.0)
    grid = measure_grid(baseline, image, noise, torch.zeros_like(truth))
    assert np.isnan(grid.tables["env_r"]).all()
    assert np.isnan(grid.tables["si_sdr"]).all()
    row = {GRID: grid.to_dict()}
    fitted = fit([row])
    assert fitted is not None
    assert fitted.hiss.env_r is None
    assert fitted.hiss.hiss_db == HISS_DB[0]  # silence is best met by silence
    found = at_level(row, fitted.hiss)
    assert found is not None
    assert found["env_r"] is None
    broken = measure_grid(baseline, image, noise, torch.full_like(truth, torch.nan))
    assert fit([{GRID: broken.to_dict()}]) is None
    assert fit([]) is None
    assert fit([{"ours_48k": {}}]) is None


FALLING, FLAT = Folding(-10, falls=True), Folding(-20, falls=False)


def _row(
    lsd_hf: list[list[float]], env_r: list[list[float]], hiss: tuple = (-90, -80, -70)
) -> dict:
    tables = {"lsd_hf": np.array(lsd_hf), "env_r": np.array(env_r)}
    return {GRID: TrickGrid(hiss, (NO_FOLDING, FLAT, FALLING), tables).to_dict()}


def test_levels_are_chosen_in_the_tricks_favour_by_hand() -> None:
    """Means over two rows: hiss is best at -80 (2.0), pairs up to 2.2 compete by env-r."""
    first = _row(
        [[3.0, 1.5, 2.5], [2.0, 2.125, 2.0], [2.0, 2.25, 2.0]],
        [[0.0, 0.9, 0.0], [0.3, 0.5, 0.2], [np.nan, 0.6, 0.1]],
    )
    second = _row(
        [[3.0, 2.5, 2.7], [2.0, 2.125, 2.5], [2.0, 2.25, 2.0]],
        [[0.0, 0.9, 0.0], [0.3, 0.5, 0.2], [0.45, 0.6, 0.1]],
    )
    fitted = fit([first, second, {"ours_48k": {}}])
    assert fitted is not None
    assert (fitted.hiss.folding, fitted.hiss.hiss_db) == (NO_FOLDING, -80)
    assert fitted.hiss.lsd_hf == 2.0
    assert not fitted.hiss.at_end
    # Falling, -80 has .6 at 2.25, too far; flat, -80 has .5 at 2.125.
    assert (fitted.folding_hiss.folding, fitted.folding_hiss.hiss_db) == (FLAT, -80)
    assert fitted.folding_hiss.env_r == 0.5
    assert fitted.folding_hiss.at_end  # the only flat one is both ends
    assert fitted.rows == 2
    assert fitted.folding_hiss.words == "folding -20 dB, hiss -80 dB"
    assert FALLING.words == "falling folding -10 dB"
    assert FittedTricks.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted
    assert at_level(first, fitted.folding_hiss) == {"lsd_hf": 2.125, "env_r": 0.5}
    assert at_level({}, fitted.hiss) is None
    other = _row([[1.0] * 3] * 3, [[0.0] * 3] * 3, hiss=(-95, -85, -75))
    assert at_level(other, fitted.hiss) is None
    alike = fit([first, other])
    assert alike is not None
    assert alike.rows == 1
