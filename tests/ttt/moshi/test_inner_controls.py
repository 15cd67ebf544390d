"""Controls of the inner loop inside Moshi: with own text, any chunk is stepping."""

import pytest
import torch

from tests.ttt.conftest import KINDS
from ttt.layers import InnerControls, TTTConfig
from ttt.moshi import Evaluation, evaluate_codes, insert_ttt
from ttt.moshi.insert import ttt_layers
from ttt.moshi.memory import memory_need
from ttt.moshi.streaming.streams import Streams

CONTROLS = {
    "ascent": InnerControls(ascent=True),
    "query is key": InnerControls(query_is_key=True),
    "three steps": InnerControls(inner_steps=3),
}


@pytest.fixture(
    params=["linear ttt_lm", "mlp ttt_lm", "linear video_dit", "mlp video_dit", "mlp lact"]
)
def exact_lm(request, small_lm):
    """A float64 model whose layers learn strongly enough to change the text that it chooses."""
    kind, flavour = request.param.split()
    lm = small_lm(ttt=None, exact=True)
    own = KINDS["lact"] if flavour == "lact" else {"kind": kind, "flavour": flavour}
    config = TTTConfig(dim=64, num_heads=4, mini_batch_size=8, **own)
    insert_ttt(lm, (1, 2), config, gate=0.8, generator=torch.Generator().manual_seed(4))
    return lm


def control(lm, controls):
    for each in ttt_layers(lm).values():
        each.layer.controls = controls


@pytest.mark.parametrize("controls", CONTROLS.values(), ids=CONTROLS)
def test_any_chunk_is_stepping(exact_lm, speech, controls):
    codes, plain = speech(), {}
    control(exact_lm, InnerControls())
    plain = evaluate_codes(exact_lm, codes, other_stream="masked", chunk=13)
    control(exact_lm, controls)
    stepped = evaluate_codes(exact_lm, codes, other_stream="masked", chunk=1)
    assert (stepped.nll - plain.nll).abs().max() > 1e-4
    for chunk in (5, 13, 32):
        heard = evaluate_codes(exact_lm, codes, other_stream="masked", chunk=chunk)
        assert torch.equal(heard.text, stepped.text)
        assert (heard.nll - stepped.nll).abs().max() < 1e-6  # nll is stored as float32
        assert heard.acceptance < 1, "nothing was ever taken back"


@pytest.mark.parametrize("controls", CONTROLS.values(), ids=CONTROLS)
def test_an_evaluation_goes_on_from_its_saved_state_bit_for_bit(exact_lm, speech, controls):
    control(exact_lm, controls)
    streams = Streams(exact_lm, speech(batch=16, frames=40), other_stream="masked")
    with Evaluation(streams, chunk=6) as evaluation:
        blocks = iter(evaluation)
        next(blocks)
        kept = evaluation.save_state()
        rest = [*blocks]
    assert rest
    with Evaluation(streams, chunk=6) as evaluation:
        evaluation.load_state(kept)
        for block, before in zip(evaluation, rest, strict=True):
            assert torch.equal(block.nll, before.nll)
            assert torch.equal(block.text, before.text)


def test_parameters_stay_and_memory_is_announced(exact_lm, speech):
    before = {name: tensor.clone() for name, tensor in exact_lm.state_dict().items()}
    plain = memory_need(exact_lm, 2, 16)
    control(exact_lm, CONTROLS["three steps"])
    evaluate_codes(exact_lm, speech(), other_stream="masked", chunk=16)
    assert all(torch.equal(t, exact_lm.state_dict()[name]) for name, t in before.items())
    assert memory_need(exact_lm, 2, 16).working >= plain.working
