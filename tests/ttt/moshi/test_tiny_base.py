"""The script that trains the base of the tiny pair: what it hears, what it is told, same again."""

import math
from pathlib import Path

import pytest
import torch
from moshi.utils.compile import no_compile
from safetensors.torch import load_file
from torch.nn import functional as F

from tests.tiny_pair import load_tiny_pair
from ttt.moshi import evaluate_codes, tiny_pair
from ttt.moshi.tiny import tiny_lm
from ttt.moshi.tiny_pair import LANGUAGE


def test_attention_cannot_reach_back_to_a_cue() -> None:
    context, layers = tiny_pair.MODEL["context"], tiny_pair.MODEL["num_layers"]
    assert layers * (context - 1) + 2 < LANGUAGE.min_lag_frames


@torch.no_grad()
def test_the_loss_is_that_of_the_streaming_evaluation() -> None:
    lm = tiny_lm(2, **tiny_pair.MODEL)
    codes = next(tiny_pair.base_chapters(seed=1, steps=10))[0][:2, :, :64]
    nll = evaluate_codes(lm, codes, text_stream="pad").nll
    text = torch.full((2, 1, 64), lm.text_padding_token_id)
    with no_compile():
        logits = lm(torch.cat([text, codes, codes.new_full((2, 8, 64), -1)], dim=1)).text_logits
    text_nll = -logits.log_softmax(-1)[..., lm.text_padding_token_id].mean()
    expected = (100 * nll[:, 0].mean() + nll[:, 1:, :-1].mean((0, 2)).sum() + text_nll) / 108
    silent = torch.full_like(codes, -1)
    assert tiny_pair.training_loss(lm, codes, silent) == pytest.approx(float(expected), rel=1e-5)


def test_a_base_hears_the_other_voice_say_what_comes() -> None:
    batches = list(tiny_pair.base_chapters(seed=3, steps=20))
    again = list(tiny_pair.base_chapters(seed=3, steps=20))
    for (codes, other), (same_codes, same_other) in zip(batches, again, strict=True):
        assert torch.equal(codes, same_codes)
        assert torch.equal(other, same_other)
        assert codes.shape == other.shape == (16, 8, 128)
        told = other != -1
        assert torch.equal(told.any(dim=1), told.all(dim=1))
        assert torch.equal(other[:, :, :-1][told[:, :, :-1]], codes[:, :, 1:][told[:, :, :-1]])
        assert not told[:, :, -1].any()
        assert told.any(dim=(1, 2)).tolist() == [False, False, True, True] * 4
    said = torch.cat([other[:, 0] != -1 for _, other in batches])
    assert 0.47 < float(said[2::4, :-1].float().mean()) < 0.53


def test_two_steps_of_a_base_are_deterministic(tmp_path: Path) -> None:
    for folder in ("first", "again"):
        tiny_pair.train_base(tmp_path / folder, seed=5, steps=2)
    first, again = (load_file(tmp_path / n / "model.safetensors") for n in ("first", "again"))
    assert all(torch.equal(first[key], again[key]) for key in again)
    assert not (tmp_path / "first/ttt.safetensors").exists()


def test_the_shipped_base_says_what_it_is_told_and_knows_nothing_else() -> None:
    lm = load_tiny_pair("baseline")
    codes, other = next(tiny_pair.base_chapters(seed=9, steps=1000))
    codes, other = codes[2::4], other[2::4]
    text = torch.full((4, 1, 128), lm.text_padding_token_id)
    losses = []
    for beside in (other, torch.full_like(other, -1)):
        with torch.no_grad(), no_compile():
            logits = lm(torch.cat([text, codes, beside], dim=1)).logits[:, 0]
        losses.append(F.cross_entropy(logits.transpose(1, 2), codes[:, 0], reduction="none"))
    told = other[:, 0, :-1] != -1  # What is told at a frame is the next one's code.
    assert float(losses[0][:, 1:][told].max()) < 0.05
    bound = LANGUAGE.best_semantic_loss(remembers=False)
    assert float(losses[1][:, 16:].mean()) == pytest.approx(bound, abs=0.02)
    assert float(losses[1][:, 17::2].mean()) == pytest.approx(math.log(8), abs=0.02)
