"""Scores of short recordings: the published forward's, whatever stands beside them in a batch."""

import math

import numpy as np
import pytest
import torch

from tests.ttt.moshi.test_evaluate import copying_lm
from ttt.eval.pairs.score import Recording, Score, Scoring, first_difference, length_batches, score
from ttt.layers import TTTConfig
from ttt.moshi import insert_ttt, tiny_lm
from ttt.moshi.streaming.evaluate import negative_log_likelihood
from ttt.moshi.streaming.session import Session

CONTEXT = 12
MASKED = {"text_stream": "masked", "other_stream": "masked", "stream": "moshi"}


@pytest.fixture(scope="module")
def lm():
    return small_lm()


@pytest.fixture(scope="module")
def ttt_lm():
    return small_lm(ttt=True)


def small_lm(ttt=False, **overrides):
    lm = tiny_lm(context=CONTEXT, dim=64, num_layers=3, depformer_dim=32, seed=3, **overrides)
    if ttt:
        layers = TTTConfig(dim=64, num_heads=4, mini_batch_size=8)
        insert_ttt(lm, (1,), layers, gate=0.8, generator=torch.Generator().manual_seed(4))
    return lm


def how(streams=MASKED, items=8, frames=10_000, chunk=16):
    return Scoring(streams=streams, chunk=chunk, batch_items=items, batch_frames=frames)


def recordings(lengths, seed=0, endings=False, card=64):
    draw = np.random.default_rng(seed)
    return [
        Recording(draw.integers(0, card, (8, n)).astype(np.int16), n // 2 if endings else None)
        for n in lengths
    ]


def silence(frames):
    return torch.randint(48, (8, frames), generator=torch.Generator().manual_seed(9))


MODES = [
    ("masked", "masked"),
    ("masked", "silence"),
    ("pad", "zero_id"),
    ("silence_codes", "masked"),
    ("masked", "audio"),
]


@pytest.mark.parametrize("text, other", MODES)
def test_sums_are_those_of_the_published_forward(lm, text, other):
    """At four windows. `forward` gives no acoustic loss of the last frame, so two lengths differ
    by what one frame adds."""
    frames, codes = 4 * CONTEXT, recordings([4 * CONTEXT + 1])[0].codes
    quiet = silence(frames + 1)
    streams = {"text_stream": text, "other_stream": other, "stream": "moshi"}
    made = score(lm, [Recording(codes, 1), Recording(codes, frames)], how(streams), quiet)
    audio = torch.from_numpy(codes).long()
    rows = {"masked": -1, "pad": lm.text_padding_token_id, "silence_codes": quiet[0]}
    row = torch.zeros(frames + 1, dtype=torch.long) + rows[text]
    others = {"masked": -1, "zero_id": 0, "audio": audio, "silence": quiet}
    voice = torch.zeros_like(audio) + others[other]
    with torch.no_grad():
        out = lm(torch.cat([row[None], audio, voice])[None])
    nll = negative_log_likelihood(out.logits.nan_to_num(), audio[None])[0, :, :-1].double()
    for result in made:
        last = np.array(made[1].ending_sum)
        assert np.abs((np.array(result.nll_sum) - last) / frames - nll.mean(1).numpy()).max() < 1e-5
        assert result.n_cb == (frames + 1,) * 8
    assert nll[:, 1:].sum(1).numpy() == pytest.approx(
        np.array(made[0].ending_sum) - np.array(made[1].ending_sum), abs=1e-3
    )


@pytest.mark.parametrize("ttt", [False, True])
@pytest.mark.parametrize("text", ["masked", "silence_codes"])
def test_a_batch_gives_what_each_alone_gives(lm, ttt_lm, ttt, text):
    model, streams, quiet = ttt_lm if ttt else lm, MASKED | {"text_stream": text}, silence(41)
    items = recordings([30, 7, 8, 41, 7, 12, 1, 2], endings=True)
    alone = score(model, items, how(streams, items=1), quiet)
    for order in (range(8), (5, 3, 1, 7, 0, 2, 6, 4)):
        together = score(model, [items[place] for place in order], how(streams, items=4), quiet)
        for place, result in zip(order, together, strict=True):
            one = alone[place]
            assert result.n_cb == one.n_cb == (items[place].codes.shape[1],) * 8
            frames = items[place].codes.shape[1]
            assert np.abs(np.subtract(result.nll_sum, one.nll_sum)).max() / frames < 1e-5
            assert np.abs(np.subtract(result.ending_sum, one.ending_sum)).max() / frames < 1e-5
            assert result.seconds > 0


def test_every_recording_begins_with_nothing_learnt(ttt_lm):
    """TTT tells its own recording apart and nothing else; parameters stay as they are."""
    before = {name: tensor.clone() for name, tensor in ttt_lm.state_dict().items()}
    first, second = recordings([40, 40], seed=1)
    assert score(ttt_lm, [first], how())[0].nll_sum == score(ttt_lm, [first], how())[0].nll_sum
    after = score(ttt_lm, [second, first], how(items=1))[1]
    assert after.nll_sum == score(ttt_lm, [first], how())[0].nll_sum
    assert all(torch.equal(before[name], tensor) for name, tensor in ttt_lm.state_dict().items())


def test_a_copied_target_scores_0_and_its_neighbours_ln_card():
    lm, frames = copying_lm(), 60
    codes = recordings([frames], card=8)[0].codes
    told = torch.arange(frames) % 3 == 1
    audio = torch.from_numpy(codes).long()
    hints = torch.full_like(audio, -1)
    hints[:, :-1] = torch.where(told, audio, -1)[:, 1:]
    for shift in (-1, 0, 1):
        streams = MASKED | {"other_stream": hints.roll(shift, dims=1)[None]}
        (result,) = score(lm, [Recording(codes)], how(streams))
        mean = np.array(result.nll_sum) / frames
        if shift == 0:
            silent = (~told).double().mean().item()
            assert mean == pytest.approx([math.log(8) * silent] * 8, abs=1e-5)
        else:  # also wrong with certainty where a neighbour's code is announced
            assert (mean > 0.9 * math.log(8)).all()


def test_another_target_in_one_codebook_changes_its_column_only():
    """In a model that hears the other voice only."""
    lm = copying_lm()
    codes = recordings([40], card=8)[0].codes
    hints = torch.from_numpy(codes).long().roll(-1, dims=1)[None]
    streams = MASKED | {"other_stream": hints}
    before = np.array(score(lm, [Recording(codes)], how(streams))[0].nll_sum)
    for codebook in (0, 3, 7):
        other = codes.copy()
        other[codebook] = (other[codebook] + 1) % 8
        after = np.array(score(lm, [Recording(other)], how(streams))[0].nll_sum)
        assert np.flatnonzero(after != before).tolist() == [codebook]


def test_one_silence_serves_batches_of_every_size(lm):
    """Four recordings together, then one: the codes of silence are no batch's."""
    items, quiet = recordings([20, 20, 20, 20]), silence(64)
    streams = MASKED | {"other_stream": "silence"}
    together = score(lm, items, how(streams, items=4), quiet)
    (alone,) = score(lm, items[2:3], how(streams, items=4), quiet[:, :20])
    assert np.abs(np.subtract(together[2].nll_sum, alone.nll_sum)).max() / 20 < 1e-5
    (other,) = score(lm, items[2:3], how(streams), silence(20).roll(1, dims=0))
    assert other.nll_sum != pytest.approx(alone.nll_sum, abs=1e-2)


def test_text_is_in_no_sum(lm):
    items = recordings([20, 9])
    before = [result.nll_sum for result in score(lm, items, how())]
    other = small_lm()
    with torch.no_grad():
        other.text_linear.weight.mul_(-7)
    assert [result.nll_sum for result in score(other, items, how())] == before


def test_a_shared_beginning_has_the_same_losses(lm):
    """The ending is where two recordings differ: what lies before it cancels, but for a frame."""
    one, other = (each.codes for each in recordings([30, 34]))
    other = np.concatenate([one[:, :11], other[:, 11:]], axis=1)
    other[3, 11] = (one[3, 11] + 1) % 64
    assert first_difference(one, other) == 11
    assert first_difference(one, one[:, :9]) == 9
    assert first_difference(one, one) == 30
    results = score(lm, [Recording(one, 11), Recording(other, 11)], how(items=1))
    beginnings = [np.subtract(result.nll_sum, result.ending_sum) for result in results]
    assert beginnings[0][0] == pytest.approx(beginnings[1][0], abs=1e-5)
    # Acoustic codes of frame 10 are predicted after the semantic code of frame 11 was heard.
    before = score(lm, [Recording(one[:, :11], 10), Recording(one, 10)], how(items=1))
    shared = [np.subtract(result.nll_sum, result.ending_sum) for result in before]
    assert shared[0] == pytest.approx(shared[1], abs=1e-5)


def test_a_broken_recording_costs_only_itself(lm):
    items = recordings([10, 11, 12])
    items[1].codes[2, 5] = 64
    results = score(lm, items, how())
    assert "holds 64 at [0, 2, 5]" in results[1]
    assert isinstance(results[0], Score)
    assert results[2].nll_sum == pytest.approx(score(lm, items[2:], how())[0].nll_sum, abs=1e-3)


def test_a_batch_too_large_for_the_memory_is_heard_one_by_one(lm, monkeypatch):
    items = recordings([10, 11, 12])
    expected = [result.nll_sum for result in score(lm, items, how(items=1))]
    streaming = type(lm).streaming

    def scarce(self, batch_size):
        if batch_size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return streaming(self, batch_size)

    monkeypatch.setattr(type(lm), "streaming", scarce)
    planned = score(lm, items[:1], how(items=1)) + score(lm, items[:1], how(chunk=4))
    assert [(r.chunk, r.batch, r.as_planned) for r in planned] == [(11, 1, True), (4, 1, True)]
    results = score(lm, items, how())
    assert [result.nll_sum for result in results] == expected
    used = [(result.chunk, result.batch, result.as_planned) for result in results]
    assert used == [(11, 1, False), (12, 1, False), (13, 1, False)]


def test_a_chunk_too_long_for_the_memory_is_told(lm, monkeypatch):
    items, listen = recordings([10, 11, 12]), Session.listen

    def scarce(self, audio, text):
        if audio.shape[2] > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return listen(self, audio, text)

    def used():
        return [(each.chunk, each.batch, each.as_planned) for each in score(lm, items, how())]

    assert used() == [(13, 3, True)] * 3
    monkeypatch.setattr(Session, "listen", scarce)
    assert used() == [(3, 3, False)] * 3


@pytest.mark.parametrize(
    "changed, sentence",
    [
        ({"stream": "user"}, "needs a model that predicts the user's codes"),
        ({"other_stream": "silence"}, "needs the codes of silence"),
    ],
)
def test_streams_that_the_model_does_not_have(lm, changed, sentence):
    assert sentence in score(lm, recordings([5]), how(MASKED | changed))[0]


def test_batches_hold_neighbours_by_length():
    lengths = [5, 90, 4, 5, 7, 300, 6, 5]
    batches = length_batches(lengths, items=3, frames=100)
    assert batches == [[2, 0, 3], [7, 6, 4], [1], [5]]
    assert sorted(place for batch in batches for place in batch) == list(range(8))
    assert length_batches(lengths, items=100, frames=14) == [[2, 0], [3, 7], [6, 4], [1], [5]]
    assert length_batches([], items=3, frames=100) == []
