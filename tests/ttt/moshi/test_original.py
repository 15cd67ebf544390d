"""The original's faults, against the published generator driven as the original drove it."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from moshi.models.lm import LMGen
from moshi.utils.compile import no_compile
from safetensors.torch import load, save

from ttt.errors import UserError
from ttt.eval.chapters.hear import EncodedChapter, StreamingOptions, record_group
from ttt.eval.chapters.records import read_records
from ttt.eval.chapters.run import ORIGINAL_WARNING
from ttt.moshi import evaluate_codes, tiny_lm
from ttt.moshi.load import load_moshi
from ttt.moshi.original import OriginalEvaluation
from ttt.moshi.streaming.evaluate import negative_log_likelihood
from ttt.moshi.tiny_pair import LANGUAGE
from ttt.moshi.ttt_files import load_ttt
from ttt.synthetic.chapters import synthetic_chapter

FRAMES = 4 * 12 + 3
PAIR = Path(__file__).parents[2] / "fixtures/tiny_moshi_effect"
"""A pair that also knows its language beside a voice of zeros, as the original has it."""
LISTENING = StreamingOptions(
    model="ttt", streams={}, chunk=8, state_every_frames=64, preset="original"
)


@torch.no_grad()
def as_the_original_drove_it(lm, codes):
    """Its list of losses as [B, 8, len], and the text that each of these calls chose.

    `step_with_logits(input[t], forced=input[t])`, with input = codes[:-1] and targets = codes[1:];
    what it returns is scored on targets[t + 1].
    """
    losses, chosen, hidden = [], [], []
    inputs, targets = codes[:, :, :-1], codes[:, :, 1:]
    silence = torch.zeros_like(codes[:, :, :1])
    generator = LMGen(lm, use_sampling=False, on_text_hook=lambda text: chosen.append(text.clone()))
    watch = lm.out_norm.register_forward_hook(lambda _, __, out: hidden.append(out.clone()))
    texts = []
    try:
        with no_compile(), generator.streaming(len(codes)):
            for t in range(inputs.shape[2] - 1):
                tokens = generator.step(silence, inputs[:, :, t : t + 1])
                if tokens is None:
                    continue
                told, target, logits = tokens[:, 0, 0], targets[:, :, t + 1], []
                with lm.depformer.streaming(len(codes)):
                    for codebook in range(8):
                        told = told[:, None, None]
                        logits.append(lm.forward_depformer(codebook, told, hidden[-1])[:, 0, 0])
                        told = target[:, codebook]
                losses.append(negative_log_likelihood(torch.stack(logits, dim=1), target))
                texts.append(chosen[-1])
    finally:
        watch.remove()
        lm.set_streaming_detached(False)
    return torch.stack(losses, dim=2), torch.stack(texts, dim=1)


def original(lm, codes, chunk=32):
    with OriginalEvaluation(lm, codes, chunk=chunk) as evaluation:
        blocks = list(evaluation)
    nll = torch.cat([block.nll for block in blocks], dim=2)
    return nll, torch.cat([block.text for block in blocks], dim=1)


@pytest.mark.parametrize("ttt", [None, "mlp"])
@pytest.mark.parametrize("frames", [4, 5, FRAMES])
def test_the_numbers_are_those_of_the_original(small_lm, speech, ttt, frames):
    """Past four windows, to the very end of what it scored."""
    lm, codes = small_lm(ttt, padding_bias=1.0), speech(frames=frames)
    nll, text = as_the_original_drove_it(lm, codes)
    assert nll.shape == (2, 8, frames - 3)
    for chunk in (1, 7, 32):
        ours, our_text = original(lm, codes, chunk)
        assert ours.shape == nll.shape
        assert (ours - nll).abs().max() < 1e-5
        assert torch.equal(our_text, text)


def test_each_fault_shows_where_a_code_is_looked_at(small_lm, speech):
    """Of frame i: scored on i + 3, undelayed codes up to i heard, the depformer told those late."""
    lm, codes, at = small_lm(exact=True), speech(batch=1, frames=FRAMES), 23
    before, _ = original(lm, codes)
    for codebook in (0, 3):
        other = codes.clone()
        other[:, codebook, at] = (other[:, codebook, at] + 1) % 64
        changed = original(lm, other)[0][0] != before[0]
        looked_at = changed[:, :at].nonzero().tolist()
        assert looked_at == [[k, at - 3] for k in range(codebook, 8)]
        assert changed[:, at].all()


def test_a_good_model_looks_worse_than_chance():
    """What TTT gains, and that either model has learnt anything, is lost."""
    chapters = [synthetic_chapter(LANGUAGE, seed, 300) for seed in range(7_100_000, 7_100_003)]
    codes, beyond = torch.from_numpy(np.stack(chapters)), slice(100, None)
    right, wrong = {}, {}
    for name in ("baseline", "ttt"):
        lm = load_moshi(str(PAIR / name), dtype="float32").lm
        if name == "ttt":
            load_ttt(lm, PAIR / name)
        nll = evaluate_codes(lm, codes, other_stream="zero_id").nll
        right[name] = nll[:, 0, beyond].mean()
        wrong[name] = original(lm, codes)[0][:, 0, beyond].mean()
    chance = math.log(LANGUAGE.card)
    assert right["ttt"] < 0.5 < 1.0 < right["baseline"] < chance
    assert min(wrong.values()) > 3 * chance
    assert wrong["ttt"] > wrong["baseline"]


@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_any_block_may_be_the_last_before_a_break(small_lm, speech, monkeypatch, chunk):
    monkeypatch.setattr("ttt.moshi.streaming.evaluate._DEPFORMER_ROWS", 24)
    lm, codes = small_lm(padding_bias=2.0), speech(frames=FRAMES)
    with OriginalEvaluation(lm, codes, chunk=chunk) as evaluation:
        blocks, states = [], [save(evaluation.save_state())]
        for block in evaluation:
            blocks.append(block)
            states.append(save(evaluation.save_state()))
            assert evaluation.frames_done == block.first_frame + block.text.shape[1]
    assert len(blocks) > 2
    assert evaluation.frames_done == FRAMES - 3
    for done, state in enumerate(states):
        with OriginalEvaluation(lm, codes, chunk=chunk) as evaluation:
            evaluation.load_state(load(state))
            rest = list(evaluation)
        assert len(rest) == len(blocks) - done
        for one, other in zip(rest, blocks[done:], strict=True):
            assert one.first_frame == other.first_frame
            assert torch.equal(one.nll, other.nll)
            assert torch.equal(one.text, other.text)


def test_what_the_original_could_not_hear_is_refused(small_lm, speech):
    with pytest.raises(UserError, match=r"3 frames is too short .* none of fewer than 4"):
        OriginalEvaluation(small_lm(None), speech(frames=3))
    with pytest.raises(UserError, match="predicts 16 of 16: leave the preset out"):
        OriginalEvaluation(tiny_lm(num_layers=1, dep_q=16), speech())
    with pytest.raises(UserError, match="codes holds 64 at"):
        OriginalEvaluation(small_lm(None), speech() + 1)


def test_records_say_that_they_are_wrong_and_what_they_lack(small_lm, speech, tmp_path):
    lm = small_lm()
    group = [EncodedChapter(name, "s", speech(1, 60)[0].numpy().astype("int16")) for name in "ab"]

    def record(group, **controls):
        record_group(
            lm,
            group,
            dataclasses.replace(LISTENING, **controls),
            silence=None,
            records_root=tmp_path,
            state_path=tmp_path / "state.safetensors",
        )

    record(group[:1])
    (found,) = read_records(tmp_path)
    assert np.array_equal(found.nll, original(lm, speech(1, 60), 8)[0][0])
    assert (found.frames, found.details.unscored_frames) == (57, 3)
    assert found.details.warning == ORIGINAL_WARNING
    for refused in ({"group": group}, {"group": group[1:], "reset_ttt_every": 20}):
        with pytest.raises(UserError, match="one chapter at a time, without any control"):
            record(**refused)
