"""The tiny pair that ships: memory beyond the window, and none where there is nothing."""

import dataclasses
import json
from typing import Literal

import numpy as np
import pytest
import torch
from moshi.models.lm import LMModel

from tests.tiny_pair import load_tiny_pair
from ttt.layers import InnerControls
from ttt.moshi import evaluate_codes
from ttt.moshi.insert import ttt_layers
from ttt.moshi.tiny import tiny_arguments
from ttt.moshi.tiny_pair import ASSET, LANGUAGE, MODEL
from ttt.synthetic.chapters import synthetic_chapter

CHAPTERS, ROUNDS = 12, 24
WINDOW = MODEL["context"]
SECOND_WINDOW = slice(WINDOW, 2 * WINDOW)
LATE = slice(ROUNDS // 2 * LANGUAGE.round_frames, None)

Losses = dict[tuple[str, str], np.ndarray]


def _chapters(structure: Literal["table", "none"]) -> torch.Tensor:
    """Chapters that neither training nor the figures used."""
    language = dataclasses.replace(LANGUAGE, structure=structure)
    frames = ROUNDS * language.round_frames
    seeds = range(7_000_000, 7_000_000 + CHAPTERS)
    return torch.from_numpy(np.stack([synthetic_chapter(language, s, frames) for s in seeds]))


@pytest.fixture(scope="module")
def losses() -> Losses:
    """Semantic loss [chapters, frames] by model and kind of chapter, each computed once."""
    lms = {"baseline": load_tiny_pair("baseline"), "ttt": load_tiny_pair("ttt")}
    return {
        (name, structure): _semantic_loss(lm, _chapters(structure))
        for name, lm in lms.items()
        for structure in ("table", "none")
    }


def test_the_pair_is_a_base_and_what_was_trained_in_it() -> None:
    config = json.loads((ASSET / "baseline/config.json").read_text())
    assert config == tiny_arguments(**MODEL)
    baseline, ttt = load_tiny_pair("baseline"), load_tiny_pair("ttt")
    assert not ttt_layers(baseline)
    assert list(ttt_layers(ttt)) == [0, 2]
    for lm in (baseline, ttt):
        assert all(tensor.dtype == torch.float32 for tensor in lm.state_dict().values())
    same = [
        name.startswith("transformer.layers.")
        for name, tensor in baseline.state_dict().items()
        if not torch.equal(tensor, ttt.state_dict()[name])
    ]
    assert all(same)  # LoRA changed the temporal transformer, and nothing else of the base.
    assert sum(path.stat().st_size for path in ASSET.rglob("*") if path.is_file()) < 4e6


def test_with_ttt_the_loss_falls_beyond_the_window_and_without_it_does_not(losses: Losses) -> None:
    fall = {
        name: losses[name, "table"][:, SECOND_WINDOW].mean(axis=1)
        - losses[name, "table"][:, LATE].mean(axis=1)
        for name in ("baseline", "ttt")
    }
    assert fall["ttt"].min() > 0.5
    assert abs(fall["baseline"].mean()) < 0.1
    late = {name: losses[name, "table"][:, LATE].mean() for name in ("baseline", "ttt")}
    for name, remembers in (("baseline", False), ("ttt", True)):
        assert late[name] == pytest.approx(
            LANGUAGE.best_semantic_loss(remembers=remembers), abs=0.01
        )


def test_without_structure_there_is_no_difference(losses: Losses) -> None:
    difference = losses["ttt", "none"] - losses["baseline", "none"]
    assert abs(difference[:, LATE].mean()) < 0.004
    fall = losses["ttt", "none"][:, SECOND_WINDOW].mean() - losses["ttt", "none"][:, LATE].mean()
    assert abs(fall) < 0.1


def test_without_updates_ttt_knows_no_more_than_the_baseline(losses: Losses) -> None:
    lm = load_tiny_pair("ttt")
    for each in ttt_layers(lm).values():
        each.layer.controls = InnerControls(updates=False)
    late = _semantic_loss(lm, _chapters("table")[:6])[:, LATE]
    assert late.mean() > losses["baseline", "table"][:6, LATE].mean() - 0.02


def test_the_bases_own_text_is_padding_as_it_was_in_training() -> None:
    lm = load_tiny_pair("baseline")
    codes = _chapters("table")[:2, :, :100]
    own, pad = (evaluate_codes(lm, codes, text_stream=text) for text in ("own", "pad"))
    assert (own.text == lm.text_padding_token_id).all()
    assert torch.allclose(own.nll, pad.nll, atol=1e-5)


def _semantic_loss(lm: LMModel, codes: torch.Tensor) -> np.ndarray:
    """NLL [B, T] of the semantic code of every frame, streaming, as chapters are evaluated."""
    return evaluate_codes(lm, codes, text_stream="pad", chunk=64).nll[:, 0].double().numpy()
