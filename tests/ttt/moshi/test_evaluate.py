"""Scores of whole recordings: aligned, equal to stepping, the same however cut and resumed."""

import math

import pytest
import torch
from safetensors.torch import load, save

from tests.oracles.reference import step_by_step
from ttt.errors import UserError
from ttt.moshi import Evaluation, evaluate_codes, tiny_lm
from ttt.moshi.streaming.delays import Delays
from ttt.moshi.streaming.evaluate import negative_log_likelihood
from ttt.moshi.streaming.streams import Streams

FRAMES = 4 * 12 + 3


def by_forward(lm, codes, text, other):
    """NLL of LMModel.forward; its last frame's acoustic codes are missing."""
    with torch.no_grad():
        out = lm(torch.cat([text[:, None], codes, other], dim=1))
    return negative_log_likelihood(out.logits.nan_to_num(), codes)[:, :, :-1].float()


def stepped(lm, codes):
    reference = step_by_step(lm, torch.cat([codes, torch.full_like(codes, -1)], dim=1))
    return negative_log_likelihood(reference.audio_logits, codes), reference.text


@pytest.mark.parametrize("ttt", [None, "linear", "mlp", "lact"])
@pytest.mark.parametrize("padding_bias", [0.0, 2.5])
def test_own_text_by_the_chunk_equals_stepping_past_four_windows(
    small_lm, speech, ttt, padding_bias
):
    lm, codes = small_lm(ttt, padding_bias=padding_bias), speech(frames=FRAMES)
    nll, text = stepped(lm, codes)
    for chunk in (1, 5, 24):
        result = evaluate_codes(lm, codes, chunk=chunk)
        assert torch.equal(result.text, text)
        assert result.nll.shape == codes.shape
        assert result.nll.dtype == torch.float32
        assert (result.nll - nll).abs().max() < 1e-5
        assert result.near_ties == 0
        assert result.chunks == ((0, chunk),)
        assert result.passes <= FRAMES + 1
    assert result.passes < 0.7 * FRAMES
    assert 0 < result.acceptance < 1


@pytest.mark.parametrize("ttt", [None, "mlp"])
def test_known_text_equals_the_models_own_forward(small_lm, speech, ttt):
    lm, codes = small_lm(ttt), speech(frames=FRAMES)
    transcript = torch.randint(48, (2, FRAMES), generator=torch.Generator().manual_seed(2))
    silence = speech(batch=1, frames=FRAMES + 4, seed=9, card=48)[0]
    nothing = torch.full_like(codes, -1)
    cases = [
        ({"text_stream": "pad"}, torch.full_like(transcript, 3), nothing),
        ({"text_stream": "masked"}, torch.full_like(transcript, -1), nothing),
        ({"text_stream": transcript, "other_stream": "audio"}, transcript, codes),
        ({"text_stream": transcript, "other_stream": codes.flip(1)}, transcript, codes.flip(1)),
        ({"text_stream": transcript, "other_stream": "zero_id"}, transcript, codes * 0),
        (
            {"text_stream": "silence_codes", "other_stream": "silence", "silence": silence},
            silence[0, :FRAMES].expand(2, -1),
            silence[:, :FRAMES].expand(2, -1, -1),
        ),
    ]
    for options, text, other in cases:
        result = evaluate_codes(lm, codes.to(torch.int16), chunk=17, **options)
        expected = by_forward(lm, codes, text, other)
        assert (result.nll[:, :, :-1] - expected).abs().max() < 1e-5, options
        assert torch.equal(result.text, text)
        assert result.acceptance == 1.0
        assert result.passes == math.ceil((FRAMES + 1) / 17)


def test_the_users_voice_can_be_scored_where_the_model_predicts_it(speech):
    lm = tiny_lm(context=12, dim=64, depformer_dim=32, dep_q=16)
    codes = speech(frames=FRAMES)
    result = evaluate_codes(lm, codes, text_stream="pad", stream="user", chunk=9)
    text = torch.full((2, FRAMES), 3)
    with torch.no_grad():
        out = lm(torch.cat([text[:, None], torch.full_like(codes, -1), codes], dim=1))
    expected = negative_log_likelihood(out.logits[:, 8:].nan_to_num(), codes)[:, :, :-1]
    assert (result.nll[:, :, :-1] - expected).abs().max() < 1e-5


def test_the_score_of_a_frame_depends_on_what_it_may(small_lm, speech):
    """Codebook 0 on codes before t; codebook k also on t + 1's semantic and t's lower acoustic."""
    lm, codes, at = small_lm(exact=True), speech(batch=1, frames=FRAMES), 23
    before = evaluate_codes(lm, codes, text_stream="pad").nll
    for codebook, first in ((0, 1 * [at] + 7 * [at - 1]), (3, [at + 2] + 2 * [at + 1] + 5 * [at])):
        other = codes.clone()
        other[:, codebook, at] = (other[:, codebook, at] + 1) % 64
        changed = evaluate_codes(lm, other, text_stream="pad").nll != before
        assert [int(line.nonzero()[0]) for line in changed[0]] == first


def copying_lm(card=8):
    """A model whose depformer says in codebook k what it heard last in the other voice's k."""
    lm = tiny_lm(card=card, dim=8 * card, num_layers=2, depformer_dim=card, context=12)
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if not name.startswith(("out_norm", "transformer.layers.0.norm")):
                parameter.zero_()
        for codebook in range(8):
            place = codebook * card
            lm.emb[8 + codebook].weight[:card, place : place + card] = torch.eye(card)
            lm.depformer_in[codebook].weight[:, place : place + card] = torch.eye(card)
            lm.linears[codebook].weight.copy_(1000 * torch.eye(card))
    return lm


@pytest.mark.parametrize("chunk", [1, 7])
def test_a_copied_target_scores_0_and_its_neighbours_ln_card(speech, chunk):
    """The other voice says every third frame one frame ahead: heard just in time, in time only."""
    lm, codes = copying_lm(), speech(batch=1, frames=FRAMES, card=8)
    told = torch.arange(FRAMES) % 3 == 1
    hints = torch.full_like(codes, -1)
    hints[:, :, :-1] = torch.where(told, codes, -1)[:, :, 1:]
    for shift in (-1, 0, 1):
        result = evaluate_codes(
            lm, codes, text_stream="masked", other_stream=hints.roll(shift, dims=2), chunk=chunk
        )
        scored = told.roll(shift)[2:-2]
        elsewhere = result.nll[0, :, 2:-2][:, ~scored]
        assert torch.allclose(elsewhere, torch.tensor(math.log(8)), atol=1e-6)
        if shift == 0:
            assert (result.nll[0, :, 2:-2][:, scored] == 0).all()
        else:
            assert result.nll[0, :, 2:-2][:, told[2:-2]].mean() == pytest.approx(math.log(8))


def test_rows_of_a_batch_are_recordings_of_their_own(small_lm, speech):
    lm = small_lm(padding_bias=2.0)
    codes, lengths = speech(batch=3, frames=FRAMES), [FRAMES, 20, 33]
    codes[1, :, 20:] = 9999
    together = evaluate_codes(lm, codes, lengths=lengths, chunk=11)
    for row, length in enumerate(lengths):
        alone = evaluate_codes(lm, codes[row : row + 1, :, :length], chunk=8)
        assert torch.equal(together.text[row, :length], alone.text[0])
        assert (together.nll[row, :, :length] - alone.nll[0]).abs().max() < 1e-5
        assert together.nll[row, :, length:].isnan().all()


@pytest.mark.parametrize("text_stream", ["own", "pad"])
@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_any_block_may_be_the_last_before_a_break(
    small_lm, speech, monkeypatch, text_stream, chunk
):
    monkeypatch.setattr("ttt.moshi.streaming.evaluate._DEPFORMER_ROWS", 24)
    build = {"padding_bias": 2.0}
    codes = speech(frames=FRAMES)

    def streams(lm):
        return Streams(lm, codes, text_stream=text_stream)

    with Evaluation(streams(small_lm(**build)), chunk=chunk) as evaluation:
        blocks, states = [], [save(evaluation.save_state())]
        for block in evaluation:
            blocks.append(block)
            states.append(save(evaluation.save_state()))
            assert evaluation.frames_done == block.first_frame + block.text.shape[1]
        counts = evaluation.acceptance
    assert [block.first_frame for block in blocks][:2] == [0, blocks[0].text.shape[1]]
    assert len(blocks) > 2
    lm = small_lm(**build)
    for done in range(0, len(states), max(1, len(states) // 5)):
        with Evaluation(streams(lm), chunk=chunk) as evaluation:
            evaluation.load_state(load(states[done]))
            rest = list(evaluation)
            assert evaluation.acceptance == counts
        assert len(rest) == len(blocks) - done
        for one, other in zip(rest, blocks[done:], strict=True):
            assert one.first_frame == other.first_frame
            assert torch.equal(one.nll, other.nll)
            assert torch.equal(one.text, other.text)


@pytest.mark.parametrize("text_stream", ["own", "pad"])
def test_ttt_layers_can_be_made_to_forget(small_lm, speech, text_stream):
    lm, codes = small_lm(padding_bias=2.0), speech(frames=FRAMES)
    options = {"text_stream": text_stream, "reset_ttt_every": 20}
    result = evaluate_codes(lm, codes, chunk=16, **options)
    by_step = evaluate_codes(lm, codes, chunk=1, **options)
    assert torch.equal(result.text, by_step.text)
    assert (result.nll - by_step.nll).abs().max() < 1e-5
    never = evaluate_codes(lm, codes, chunk=16, text_stream=text_stream)
    assert (result.nll - never.nll)[:, :, :19].abs().max() < 1e-5
    assert (result.nll - never.nll)[:, :, 20:].abs().max() > 1e-2
    base = small_lm(None, padding_bias=2.0)
    without_ttt = evaluate_codes(base, codes, text_stream=text_stream)
    assert (evaluate_codes(base, codes, **options).nll - without_ttt.nll).abs().max() < 1e-5
    with pytest.raises(UserError, match="reset_ttt_every=0 must be"):
        evaluate_codes(lm, codes, reset_ttt_every=0)


def test_a_state_of_another_chapter_is_refused(small_lm, speech):
    lm, codes = small_lm(), speech(frames=FRAMES)
    with Evaluation(Streams(lm, codes)) as evaluation:
        list(evaluation)
        saved = evaluation.save_state()
    with Evaluation(Streams(lm, codes[:, :, :20])) as evaluation:
        for tensors in (saved, {}):
            with pytest.raises(UserError, match="not of this chapter"):
                evaluation.load_state(tensors)


def test_parameters_stay_and_again_is_the_same(small_lm, speech):
    lm, codes = small_lm(), speech(frames=FRAMES)
    before = {key: tensor.clone() for key, tensor in lm.state_dict().items()}
    results = [evaluate_codes(lm, codes) for _ in range(2)]
    assert torch.equal(results[0].nll, results[1].nll)
    assert all(torch.equal(lm.state_dict()[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_the_shortest_recordings_are_scored(small_lm, speech, frames):
    lm, codes = small_lm(), speech(frames=frames)
    nll, text = stepped(lm, codes)
    for chunk in (1, 2, 32):
        result = evaluate_codes(lm, codes, chunk=chunk)
        assert (result.nll - nll).abs().max() < 1e-5
        assert torch.equal(result.text, text)


class Scarce:
    """Memory that suffices for so many rows at once, in the temporal transformer or depformer."""

    def __init__(self, module, rows):
        self.rows, self.refused = rows, 0
        self.hook = module.register_forward_pre_hook(self.check)

    def check(self, _, inputs):
        if inputs[0].shape[0] * inputs[0].shape[1] > self.rows:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("text_stream", ["own", "pad"])
def test_too_little_memory_halves_the_chunk_and_goes_on(small_lm, speech, text_stream):
    lm, codes = small_lm(padding_bias=2.0), speech(frames=FRAMES)
    plenty = evaluate_codes(lm, codes, text_stream=text_stream, chunk=20)
    scarce = Scarce(lm.transformer.layers[2], 2 * 6)
    result = evaluate_codes(lm, codes, text_stream=text_stream, chunk=20)
    assert scarce.refused == 2
    assert result.chunks == ((0, 20), (0, 10), (0, 5))
    assert torch.equal(result.text, plenty.text)
    assert (result.nll - plenty.nll).abs().max() < 1e-5
    scarce.hook.remove()
    scarce = Scarce(lm.depformer, 2 * 8 * 10)
    result = evaluate_codes(lm, codes, text_stream=text_stream, chunk=20)
    assert scarce.refused > 0
    assert (result.nll - plenty.nll).abs().max() < 1e-5
    scarce.hook.remove()
    Scarce(lm.depformer, 1)
    with pytest.raises(UserError, match=r"one step at a time: lower the batch \(2\)"):
        evaluate_codes(lm, codes, text_stream=text_stream, chunk=20)
    assert not lm.is_streaming


def test_a_loss_that_is_not_a_number_is_named(small_lm, speech):
    lm, codes = small_lm(None), speech(frames=FRAMES)
    codes[1, 2] = codes[1, 2] % 63
    codes[1, 2, 30] = 63
    with torch.no_grad():
        lm.linears[5].weight[:] = torch.nan
    with pytest.raises(UserError, match=r"codebook 5 of frame 0 \(recording 0 "):
        evaluate_codes(lm, codes)
    lm = small_lm(None)
    with torch.no_grad():
        lm.emb[2].weight[63] = torch.nan
    codes[0, 2] = 1
    with pytest.raises(UserError, match=r"codebook \d of frame 3\d \(recording 1 "):
        evaluate_codes(lm, codes, text_stream="pad")
    assert not lm.is_streaming


def test_near_ties_are_counted(small_lm, speech):
    lm, codes = small_lm(), speech(frames=FRAMES)
    with torch.no_grad():
        lm.text_linear.weight[7] = lm.text_linear.weight[11]
    result = evaluate_codes(lm, codes, lengths=[FRAMES, 20])
    tied = (result.text == 7) | (result.text == 11)
    expected = int(tied[0].sum() + tied[1, :20].sum())
    assert expected > 0
    assert result.near_ties in (expected, expected + 1)  # The step after the last frame counts.


def test_negative_log_likelihood():
    logits = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    targets = torch.randint(7, (2, 3, 5))
    targets[0, 1, 2] = -1
    nll = negative_log_likelihood(logits, targets)
    assert nll.dtype == torch.float64
    assert nll[0, 1, 2].isnan()
    expected = -logits.softmax(-1)[1, 2, 4, targets[1, 2, 4]].log()
    assert nll[1, 2, 4] == pytest.approx(expected.item(), abs=1e-12)
    assert negative_log_likelihood(logits.bfloat16(), targets).dtype == torch.float32


def test_delays_say_how_far_a_step_hears():
    assert Delays.of(tiny_lm(num_layers=1)).heard_frames == 2
