"""TTT layers inside the published model: what they change, what they must not, and streaming."""

import dataclasses

import pytest
import torch

from tests.ttt.conftest import KINDS
from ttt.errors import UserError
from ttt.layers import TTTConfig
from ttt.moshi import insert_ttt, tiny_lm
from ttt.moshi.insert import take_out_ttt, temporal_layers, ttt_layers
from ttt.moshi.streaming.delays import Delays

CONTEXT = 12
CONFIG = TTTConfig(dim=64, num_heads=4, mini_batch_size=8)
LACT = TTTConfig(dim=64, num_heads=4, mini_batch_size=13, flavour="lact", rope_theta=None)


def base(**overrides):
    fields = {"context": CONTEXT, "dim": 64, "num_layers": 4, "depformer_dim": 32, "seed": 3}
    return tiny_lm(**{**fields, **overrides})


def with_ttt(layers=(1, 2), config=CONFIG, gate=0.8, **overrides):
    lm = base(**overrides)
    insert_ttt(lm, layers, config, gate=gate, generator=torch.Generator().manual_seed(4))
    return lm


def exact(**overrides):
    return with_ttt(norm="layer_norm", dtype=torch.float64, **overrides)


def speech(lm, batch=2, frames=3 * CONTEXT + 5):
    draw = torch.Generator().manual_seed(6)
    text = torch.randint(lm.text_card, (batch, 1, frames), generator=draw)
    return torch.cat([text, torch.randint(lm.card, (batch, 16, frames), generator=draw)], dim=1)


@torch.no_grad()
def streamed(lm, tokens, steps=None):
    """Text logits [B, S, V] of hearing the columns one by one, in a stream already begun."""
    columns = Delays.of(lm).columns(tokens, 0, steps or tokens.shape[2])
    return torch.cat([lm.forward_text(c)[1][:, 0] for c in columns.split(1, dim=2)], dim=1)


@torch.no_grad()
def test_every_base_tensor_keeps_its_name_and_its_bytes():
    before = base().state_dict()
    lm = base()
    assert insert_ttt(lm, [0, 3], CONFIG) == 2
    after = lm.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    added = set(after) - set(before)
    assert {key.split(".ttt.")[0] for key in added} == {
        "transformer.layers.0",
        "transformer.layers.3",
    }
    assert len(added) == 2 * 16
    assert sorted(ttt_layers(lm)) == [0, 3]


@torch.no_grad()
def test_a_closed_gate_is_the_base_model():
    plain, closed = base(), with_ttt(gate=0.0)
    tokens = speech(plain)
    assert torch.equal(closed(tokens).text_logits, plain(tokens).text_logits)
    assert not torch.equal(with_ttt()(tokens).text_logits, plain(tokens).text_logits)


@torch.no_grad()
def test_ttt_comes_between_attention_and_feed_forward():
    lm = with_ttt([1])
    layer = temporal_layers(lm)[1]
    x = torch.randn(2, 20, 64)
    attended = x + layer.self_attn(*[layer.norm1(x)] * 3)
    taught, _ = layer.ttt.layer(attended, layer.ttt.layer.init_state(2))
    mixed = attended + torch.tanh(layer.ttt.alpha) * taught
    expected = mixed + layer.gating(layer.norm2(mixed))
    assert torch.allclose(layer(x), expected, atol=1e-6)


@pytest.mark.parametrize(("build", "tolerance"), [(with_ttt, 1e-5), (exact, 1e-12)])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_streaming_equals_the_whole_past_three_windows(build, tolerance, kind):
    lm = build(config=TTTConfig(dim=64, num_heads=4, mini_batch_size=8, **KINDS[kind]))
    tokens = speech(lm)
    whole = lm(tokens).text_logits[:, 0]
    with lm.streaming(2):
        assert (streamed(lm, tokens) - whole).abs().max() < tolerance


@torch.no_grad()
def test_changing_a_frame_changes_nothing_before_it():
    lm = with_ttt()
    tokens = speech(lm)
    other = tokens.clone()
    other[:, 1:, 20] = (other[:, 1:, 20] + 1) % lm.card
    with lm.streaming(2):
        before = streamed(lm, tokens)
    with lm.streaming(2):
        after = streamed(lm, other)
    assert torch.equal(after[:, :21], before[:, :21])
    assert (after - before)[:, 21:].abs().amax(dim=(0, 2)).min() > 0


@torch.no_grad()
def test_a_second_session_equals_the_first_and_leaves_the_parameters():
    lm = with_ttt()
    tokens = speech(lm)
    parameters = {key: tensor.clone() for key, tensor in lm.state_dict().items()}
    sessions = []
    for _ in range(2):
        with lm.streaming(2):
            sessions.append(streamed(lm, tokens))
            changes = [
                each.layer.fast_weight_change(each.learnt) for each in ttt_layers(lm).values()
            ]
            assert torch.stack(changes).min() > 0
    assert torch.equal(*sessions)
    assert all(torch.equal(lm.state_dict()[key], old) for key, old in parameters.items())


@torch.no_grad()
def test_rows_are_streams_of_their_own():
    lm = exact()
    tokens = speech(lm, batch=3)
    with lm.streaming(3):
        together = streamed(lm, tokens)
    for row in range(3):
        with lm.streaming(1):
            alone = streamed(lm, tokens[row : row + 1])
        assert (together[row] - alone[0]).abs().max() < 1e-12


@torch.no_grad()
def test_resetting_the_stream_resets_what_ttt_learnt():
    lm = exact()
    tokens = speech(lm, batch=2)
    with lm.streaming(2):
        fresh = streamed(lm, tokens)
        lm.reset_streaming()
        assert torch.equal(streamed(lm, tokens), fresh)
        lm.reset_streaming()
        streamed(lm, tokens, steps=2 * CONFIG.mini_batch_size)
        lm.reset_streaming(torch.tensor([True, False]))
        assert (streamed(lm, tokens)[0] - fresh[0]).abs().max() < 1e-12


@torch.no_grad()
def test_frames_can_be_taken_back_to_the_mark():
    lm = with_ttt()
    tokens = speech(lm)
    with lm.streaming(2):
        streamed(lm, tokens, steps=13)
        for each in ttt_layers(lm).values():
            each.mark()
        before = [each.learnt.to_tensors() for each in ttt_layers(lm).values()]
        streamed(lm, tokens, steps=21)
        for each in ttt_layers(lm).values():
            each.rollback(21)
        after = [each.learnt.to_tensors() for each in ttt_layers(lm).values()]
    for old, new in zip(before, after, strict=True):
        assert all(torch.equal(new[key], old[key]) for key in old)
    with pytest.raises(RuntimeError, match="not streaming"):
        ttt_layers(lm)[1].mark()


@torch.no_grad()
def test_streams_cannot_pause_one_by_one():
    lm = with_ttt()
    with lm.streaming(2):
        lm.set_exec_mask(torch.tensor([True, True]))
        with pytest.raises(NotImplementedError, match="cannot pause one by one"):
            lm.set_exec_mask(torch.tensor([True, False]))


@torch.no_grad()
def test_a_bfloat16_model_keeps_float32_fast_weights():
    lm = with_ttt(dtype=torch.bfloat16)
    assert ttt_layers(lm)[1].alpha.dtype == torch.bfloat16
    with lm.streaming(2):
        streamed(lm, speech(lm))
        learnt = ttt_layers(lm)[1].learnt
    assert {tensor.dtype for affine in learnt.weights for tensor in affine} == {torch.float32}


def test_gradients_reach_ttt_through_the_whole_model():
    lm = with_ttt(layers=(0, 2)).train()
    out = lm(speech(lm))
    loss = out.text_logits.square().mean() + out.logits[out.mask].square().mean()
    loss.backward()
    for name, parameter in lm.named_parameters():
        if ".ttt." in name:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_the_attention_context_is_set_in_the_named_layers_alone():
    lm = base()
    insert_ttt(lm, [1, 3], CONFIG, attention_context=5)
    assert [layer.self_attn.context for layer in temporal_layers(lm)] == [CONTEXT, 5, CONTEXT, 5]
    with lm.streaming(1):
        capacities = [
            layer.self_attn._streaming_state.kv_cache.capacity for layer in temporal_layers(lm)
        ]
    assert capacities == [CONTEXT, 5, CONTEXT, 5]


@pytest.mark.parametrize(
    ("layers", "config", "context", "sentence"),
    [
        ([], CONFIG, None, "no layers were named for TTT"),
        ([1, 4], CONFIG, None, r"layers \[4\] do not fit: this model has 4 layers, 0 to 3"),
        ([-1], CONFIG, None, r"layers \[-1\] do not fit"),
        ([2, 1, 2], CONFIG, None, r"layers \[2\] are named more than once"),
        ([1], TTTConfig(dim=128, num_heads=4), None, "dim=128 of the TTT layers must be"),
        ([1], CONFIG, 0, "attention_context must be 1 or more, not 0"),
        ([1], LACT, None, "mini_batch_size=13 of lact layers must be at most the 12 frames that"),
        ([0, 1, 2, 3], dataclasses.replace(LACT, mini_batch_size=9), 8, "at most the 8 frames"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(layers, config, context, sentence):
    lm = base()
    with pytest.raises(UserError, match=sentence):
        insert_ttt(lm, layers, config, context)
    assert not ttt_layers(lm)
    assert insert_ttt(lm, [1], CONFIG) == 1


def test_inserting_twice_or_after_streaming_is_refused():
    lm = with_ttt()
    with pytest.raises(UserError, match=r"has TTT in layers \[1, 2\] already"):
        insert_ttt(lm, [3], CONFIG)
    lm = base()
    with lm.streaming(1), pytest.raises(UserError, match="has streamed already"):
        insert_ttt(lm, [1], CONFIG)
    with pytest.raises(UserError, match="has streamed already"):
        insert_ttt(lm, [1], CONFIG)


@torch.no_grad()
def test_what_is_taken_out_leaves_the_base_which_takes_it_again():
    lm, theirs = tiny_lm(seed=3), tiny_lm(seed=3)
    tokens = torch.randint(40, (1, 17, 30))
    config = TTTConfig(dim=lm.dim, num_heads=4)
    with lm.streaming(1):  # A base that has streamed already takes them all the same.
        pass
    take_out_ttt(lm)
    insert_ttt(lm, [1, 2], config, 9, generator=torch.Generator().manual_seed(1))
    with lm.streaming(1):
        with pytest.raises(RuntimeError, match="streaming"):
            take_out_ttt(lm)
        first = lm.forward_text(tokens)
    take_out_ttt(lm)
    assert lm.state_dict().keys() == theirs.state_dict().keys()
    assert torch.equal(lm(tokens).text_logits, theirs(tokens).text_logits)
    assert {layer.self_attn.context for layer in temporal_layers(lm)} == {lm.context}
    insert_ttt(lm, [1, 2], config, 9, generator=torch.Generator().manual_seed(1))
    with lm.streaming(1):
        assert all(map(torch.equal, lm.forward_text(tokens), first))
