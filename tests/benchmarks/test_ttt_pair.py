"""The benchmark of a pair: its figures are those of chapters heard one by one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import ttt_pair
from tests.tiny_pair import load_tiny_pair
from ttt.errors import UserError
from ttt.moshi import evaluate_codes
from ttt.moshi.load import load_moshi
from ttt.moshi.tiny_pair import ASSET, LANGUAGE
from ttt.moshi.ttt_files import load_ttt
from ttt.synthetic.chapters import synthetic_chapter

OLD = Path(__file__).parents[1] / "fixtures/tiny_moshi_effect"
"""A pair whose TTT layers were trained together with a base model of their own."""


def test_figures_are_those_of_chapters_heard_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ttt_pair, "TOGETHER", 3)
    pair = ttt_pair.load_pair(ASSET)
    lines = [*ttt_pair.report(*pair, ttt_pair.Drawn(5, 48))]
    assert "5 chapters of 48 frames of each kind" in lines[0]
    models = {"baseline": load_tiny_pair("baseline"), "ttt": load_tiny_pair("ttt")}
    structures: tuple[ttt_pair.Structure, ...] = "table", "none"
    for structure in structures:
        language = dataclasses.replace(LANGUAGE, structure=structure)
        means = []
        for seed in range(2_000_000, 2_000_005):
            codes = torch.from_numpy(synthetic_chapter(language, seed, 48))[None]
            ttt, baseline = (
                evaluate_codes(models[name], codes, text_stream="pad", other_stream="masked").nll[0]
                for name in ("ttt", "baseline")
            )
            less = (ttt - baseline).numpy()
            weighted = 100 * less[0] + less[1:].sum(axis=0)
            means.append((less[0, 16:32].mean(), weighted[4:48].mean()))
        startup, effect = np.mean(means, axis=0)
        column = 1 if structure == "table" else 2
        (row,) = (line for line in lines if line.strip().startswith("16-32"))
        assert f"{startup:+.4f}" in row.split(")")[column - 1]
        if structure == "table":
            (line,) = (line for line in lines if line.startswith("effect"))
            assert f"{effect / 107:+.4f}" in line
        else:
            assert f"start-up, 16-32: {startup:+.4f}" in lines[-1]
            assert "0.0433 is unavoidable" in lines[-1]


def test_bins_double_as_far_as_chapters_go() -> None:
    assert ttt_pair.bins(100) == [(4, 16), (16, 32), (32, 64), (64, 100)]


def test_layers_of_another_base_are_refused() -> None:
    with pytest.raises(UserError, match="belong to the base model"):
        ttt_pair.load_pair(ASSET, OLD / "ttt")


def test_layers_may_have_a_base_model_of_their_own() -> None:
    baseline, ttt = ttt_pair.load_pair(OLD)
    whole = load_moshi(str(OLD / "ttt"), dtype="float32").lm
    load_ttt(whole, OLD / "ttt")
    assert all(torch.equal(tensor, ttt.state_dict()[k]) for k, tensor in whole.state_dict().items())
    alone = load_moshi(str(OLD / "baseline"), dtype="float32").lm.state_dict()
    assert all(torch.equal(tensor, alone[k]) for k, tensor in baseline.state_dict().items())


def test_heads_that_were_never_certain_cannot_say_an_answer() -> None:
    never, told = (
        ttt_pair.best_answers(load_moshi(str(folder), dtype="float32").lm, starts=6, steps=150)
        for folder in (OLD / "baseline", ASSET / "baseline")
    )
    assert never.shape == told.shape == (8,)
    assert never.mean() > 0.5
    assert told.max() < 0.02
