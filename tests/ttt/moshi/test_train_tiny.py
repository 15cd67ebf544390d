"""The script that trains the two tiny Moshis: what they hear, what they are told, same again."""

import math
from pathlib import Path

import pytest
import torch
from moshi.utils.compile import no_compile
from safetensors.torch import load_file
from torch.nn import functional as F

from ttt.moshi import evaluate_codes, train_tiny
from ttt.moshi.load import load_moshi
from ttt.moshi.tiny import tiny_lm
from ttt.moshi.train_tiny import LANGUAGE, load_tiny_effect


def test_two_steps_are_deterministic_and_touch_every_ttt_parameter(tmp_path: Path) -> None:
    for folder in ("first", "again"):
        train_tiny.train_one(tmp_path / folder, "ttt", seed=5, steps=2)
    train_tiny.train_one(tmp_path / "start", "ttt", seed=5, steps=0)
    for file in ("model.safetensors", "ttt.safetensors"):
        first, again = (load_file(tmp_path / n / "ttt" / file) for n in ("first", "again"))
        assert first.keys() == again.keys()
        assert all(torch.equal(first[key], again[key]) for key in first)
    trained, drawn = (
        load_file(tmp_path / n / "ttt" / "ttt.safetensors") for n in ("first", "start")
    )
    assert all(not torch.equal(trained[key], drawn[key]) for key in drawn)
    lm = load_tiny_effect("ttt", tmp_path / "first")
    assert all(torch.equal(lm.state_dict()[key], tensor) for key, tensor in trained.items())


def test_both_models_hear_the_same_and_training_leaves_fresh_chapters_alone() -> None:
    batches = list(train_tiny.training_chapters(seed=3, steps=20))
    again = list(train_tiny.training_chapters(seed=3, steps=20))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))
    chapters = [chapter.numpy().tobytes() for batch in batches for chapter in batch]
    assert len(set(chapters)) == len(chapters)
    assert all(batch.shape[0] * batch.shape[2] == 2048 for batch in batches)


def test_attention_cannot_reach_back_to_a_cue() -> None:
    context, layers = train_tiny.MODEL["context"], train_tiny.MODEL["num_layers"]
    assert layers * (context - 1) + 2 < LANGUAGE.min_lag_frames


@torch.no_grad()
def test_the_loss_is_that_of_the_streaming_evaluation() -> None:
    lm = tiny_lm(2, **train_tiny.MODEL)
    codes = next(train_tiny.training_chapters(seed=1, steps=10))[:2, :, :64]
    nll = evaluate_codes(lm, codes, text_stream="pad").nll
    text = torch.full((2, 1, 64), lm.text_padding_token_id)
    with no_compile():
        logits = lm(torch.cat([text, codes, codes.new_full((2, 8, 64), -1)], dim=1)).text_logits
    text_nll = -logits.log_softmax(-1)[..., lm.text_padding_token_id].mean()
    expected = (100 * nll[:, 0].mean() + nll[:, 1:, :-1].mean((0, 2)).sum() + text_nll) / 108
    assert train_tiny.training_loss(lm, codes) == pytest.approx(float(expected), rel=1e-5)


def test_a_base_hears_the_other_voice_say_what_comes() -> None:
    batches = list(train_tiny.base_chapters(seed=3, steps=20))
    again = list(train_tiny.base_chapters(seed=3, steps=20))
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
        train_tiny.train_base(tmp_path / folder, seed=5, steps=2)
    first, again = (load_file(tmp_path / n / "model.safetensors") for n in ("first", "again"))
    assert all(torch.equal(first[key], again[key]) for key in again)
    assert not (tmp_path / "first/ttt.safetensors").exists()


def test_the_shipped_base_says_what_it_is_told_and_knows_nothing_else() -> None:
    lm = load_moshi(str(train_tiny.BASE_ASSET), dtype="float32").lm
    codes, other = next(train_tiny.base_chapters(seed=9, steps=1000))
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
