"""Validation rows against metrics computed one window at a time on whole-clip decodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import build_nano_snac
from tests.nano_cache import write_nano_cache
from ttt.audio import resample
from ttt.snac.cache.catalogue import held_out_rows
from ttt.snac.cache.index import open_cache
from ttt.snac.evaluation.trick_levels import GRID, fit
from ttt.snac.evaluation.tricks import measure_grid, white_noise, zero_stuffed
from ttt.snac.metrics import all_metrics
from ttt.snac.model import Decoder48k, deterministic, interleaved_to_codes
from ttt.snac.train.config import LossConfig
from ttt.snac.train.losses import reconstruction_loss
from ttt.snac.train.step import activation_bytes_per_coarse
from ttt.snac.train.validation import ValidationSet, fit_on_windows, validate
from ttt.snac.train.window_places import ClipPlaces
from ttt.snac.train.window_reader import WindowReader
from ttt.snac.train.windows import WindowPlan, validation_windows
from ttt.snac.verdict import CEILING
from ttt.training.ranks import SingleProcess, require_equal

LOSS = LossConfig(n_ffts=(512, 1024))
ROWS = np.array([2, 3, 4])
"""Clips of at least 8 coarsest tokens, as long as a slice."""


@pytest.mark.parametrize("init", ["interp", "noble"])
def test_rows_are_the_whole_decodes_metrics_weighted_by_samples(tmp_path: Path, init: str) -> None:
    """With context beyond the receptive field a window is the whole decode's span, exactly; the
    last clip's tail is past its real samples, so its weight is smaller."""
    cache = open_cache(write_nano_cache(tmp_path, 5))
    model = Decoder48k.from_snac(build_nano_snac(), init)  # pyright: ignore[reportArgumentType]
    catalogue, geometry = cache.catalogue, cache.geometry
    arrays = (catalogue.n_coarse, catalogue.n_samples, geometry, model.reach_samples_48k)
    plan = WindowPlan(*arrays, seed=0)
    windows = validation_windows(
        ClipPlaces(*arrays),
        core_coarse=2,
        context_coarse=3,
        clips_per_batch=4,
        max_windows=99,
        rows=ROWS,
    )
    result = validate(
        model,
        ValidationSet(WindowReader(cache, plan), windows),
        LOSS,
        SingleProcess(),
        precision="float32",
        untouched=model,
        n_examples=2,
    )
    expected: dict[str, list[tuple[float, float]]] = {}
    with torch.no_grad(), deterministic(model):
        for row in ROWS.tolist():
            n_coarse, real = int(catalogue.n_coarse[row]), int(catalogue.n_samples[row])
            codes = torch.from_numpy(cache.read_codes(row, 0, n_coarse)[None])
            y48, y24 = model(interleaved_to_codes(codes, geometry))
            baseline = resample(y24, 24_000, 48_000)[0, 0]
            truth = torch.from_numpy(cache.read_audio(row, 0, geometry.samples_48k(n_coarse)))
            for start in range(n_coarse // 2):
                begin = geometry.samples_48k(2 * start)
                end = min(begin + geometry.samples_48k(2), real)
                target = truth[begin:end][None] / 32768
                limited = resample(target, 48_000, 24_000, sharp=True)
                ceiling = resample(limited, 24_000, 48_000)[0, : end - begin]
                entry = expected.setdefault("resampled_true24/lsd_lf", [])
                value = all_metrics(ceiling[None], target)["lsd_lf"]
                entry.append((float(value), end - begin))
                for name, estimate in (("ours_48k", y48[0, 0]), ("resampled_decode24", baseline)):
                    metrics = all_metrics(estimate[begin:end][None], target)
                    for metric, value in metrics.items():
                        entry = expected.setdefault(f"{name}/{metric}", [])
                        entry.append((float(value), end - begin))
                full = torch.zeros(1, geometry.samples_48k(2))
                full[:, : end - begin] = target
                estimate = torch.zeros_like(full)
                estimate[:, : end - begin] = y48[0, :, begin:end]
                loss = reconstruction_loss(estimate, full, torch.tensor([end - begin]), LOSS)
                expected.setdefault("loss", []).append((float(loss["total"]), end - begin))

    def mean(key: str) -> float:
        values, weights = zip(*expected[key], strict=True)
        return float(np.average(values, weights=weights))

    assert result.loss == pytest.approx(mean("loss"), rel=1e-4)
    for name in ("ours_48k", "resampled_decode24"):
        for metric, value in result.rows[name].items():
            assert value == pytest.approx(mean(f"{name}/{metric}"), rel=1e-3), (name, metric)
    assert result.rows[CEILING]["lsd_lf"] == pytest.approx(mean(f"{CEILING}/lsd_lf"), rel=0.05)
    if init == "interp":
        assert result.rows["ours_48k"] == pytest.approx(result.rows["resampled_decode24"], rel=1e-3)
    assert [example.clip_id for example in result.examples] == ["clip02", "clip02"]


def test_tricks_are_fitted_on_the_windows_beside_the_untouched_decoder(tmp_path: Path) -> None:
    """Whatever the head's init; windows by hand, two per clip, from whole decodes."""
    cache = open_cache(write_nano_cache(tmp_path, 5))
    model = Decoder48k.from_snac(build_nano_snac(), "random")
    catalogue, geometry = cache.catalogue, cache.geometry
    arrays = (catalogue.n_coarse, catalogue.n_samples, geometry, model.reach_samples_48k)
    windows = validation_windows(
        ClipPlaces(*arrays),
        core_coarse=2,
        context_coarse=3,
        clips_per_batch=4,
        max_windows=99,
        rows=ROWS[-1:],
    )
    reader = WindowReader(cache, WindowPlan(*arrays, seed=0))
    fitted = fit_on_windows(model, ValidationSet(reader, windows))
    rows = []
    with torch.no_grad(), deterministic(model):
        (row,) = ROWS[-1:].tolist()
        n_coarse, real = int(catalogue.n_coarse[row]), int(catalogue.n_samples[row])
        codes = torch.from_numpy(cache.read_codes(row, 0, n_coarse)[None])
        audio_24k = model.decode_24k(interleaved_to_codes(codes, geometry))[0, 0]
        truth = torch.from_numpy(cache.read_audio(row, 0, real)) / 32768
        baseline, image = resample(audio_24k, 24_000, 48_000), zero_stuffed(audio_24k)
        for start in range(n_coarse // 2):
            begin = geometry.samples_48k(2 * start)
            end = min(begin + geometry.samples_48k(2), real)
            noise = white_noise(f"other {start}", end - begin)
            parts = (baseline[begin:end], image[begin:end], noise, truth[begin:end])
            rows.append({GRID: measure_grid(*parts).to_dict()})
    expected = fit(rows)
    assert fitted is not None
    assert expected is not None
    assert fitted.rows == len(rows)
    assert fitted.hiss.hiss_db == expected.hiss.hiss_db
    assert fitted.hiss.lsd_hf == pytest.approx(expected.hiss.lsd_hf, rel=0.02)


def test_held_out_clips_follow_their_ids_alone() -> None:
    ids = [f"speaker{n % 7}/{n}" for n in range(200)]
    rows = held_out_rows(ids, 0.1)
    assert len(rows) == 20
    assert list(rows) == sorted(rows)
    reordered = ids[::-1]
    assert {reordered[row] for row in held_out_rows(reordered, 0.1)} == {ids[row] for row in rows}
    assert {ids[row] for row in rows} < {ids[row] for row in held_out_rows(ids, 0.2)}
    assert len(held_out_rows(ids, 1e-6)) == 1


def test_drifted_ranks_are_noticed() -> None:
    class Drifted(SingleProcess):
        world = 2

        def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
            tensor[1] = tensor[0] + 1  # the other rank's hash
            return tensor

    weights = {"a": torch.ones(3), "b": torch.tensor(1.0)}
    require_equal(SingleProcess(), weights.items(), "the weights")
    with pytest.raises(RuntimeError, match="the weights differ between the ranks"):
        require_equal(Drifted(), weights.items(), "the weights")


def test_memory_is_counted_from_shapes() -> None:
    """The published decoder: .73 GB per audio-second with all of it trained, .19 with the body
    frozen; 1.34 and .46 while SNAC's activation kept what it makes on its way."""
    published = build_nano_snac(
        encoder_dim=48, decoder_dim=1024, codebook_size=4096, codebook_dim=8
    )
    model = Decoder48k.from_snac(published)
    per_second = 1 / model.geometry.seconds(1)
    frozen, whole = (activation_bytes_per_coarse(model, p) * per_second / 1e9 for p in (1, 2))
    assert whole == pytest.approx(0.73, rel=0.05)
    assert frozen == pytest.approx(0.185, rel=0.05)
    assert all(p.requires_grad for p in model.body_parameters())
