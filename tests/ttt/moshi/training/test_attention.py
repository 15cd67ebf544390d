"""Attention in blocks against one product over all keys, and inside the model."""

import pytest
import torch

from ttt.errors import UserError
from ttt.moshi.insert import temporal_layers
from ttt.moshi.training import block_attention, set_attention_block


def drawn(frames, dtype=torch.float64):
    generator = torch.Generator().manual_seed(frames)
    return [
        torch.randn(2, 3, frames, 8, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
        for _ in range(3)
    ]


def at_once(q, k, v, context):
    """Every query against every key, the softmax written out."""
    places = torch.arange(q.shape[2])
    back = places[:, None] - places
    seen = (back >= 0) & (back < (context or q.shape[2]))
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("dtype, limit", ((torch.float64, 1e-12), (torch.float32, 1e-5)))
@pytest.mark.parametrize(
    "frames, context, block",
    (
        (45, 12, 12),
        (45, 12, 5),
        (45, 12, 16),
        (45, 12, 1),
        (45, 1, 7),
        (45, 200, 7),
        (45, None, 7),
        (45, 12, 45),
        (9, 12, 20),
        (1, 1, 1),
        (48, 13, 6),
    ),
)
def test_blocks_are_the_whole(frames, context, block, dtype, limit):
    ours, theirs = drawn(frames, dtype), drawn(frames, dtype)
    out, expected = block_attention(*ours, context, block), at_once(*theirs, context)
    assert (out - expected).abs().max() < limit
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=dtype)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.grad - other.grad).abs().max() < 10 * limit


def test_a_window_one_frame_shorter_is_another_answer():
    tensors = drawn(45)
    assert (block_attention(*tensors, 12, 5) - at_once(*tensors, 11)).abs().max() > 0.1


@pytest.mark.parametrize("context, block", ((0, 3), (3, 0), (None, -1)))
def test_what_is_no_window_or_block_is_refused(context, block):
    with pytest.raises(UserError, match=f"context={context} and block={block} must both be"):
        block_attention(*drawn(4), context, block)


def hear(lm, tokens):
    """Hidden states, and the gradient of a sum at the first layer's input projection."""
    parameter = temporal_layers(lm)[0].self_attn.in_projs[0].weight
    lm.zero_grad()
    hidden, _ = lm.forward_text(tokens)
    (hidden * torch.linspace(-1, 1, hidden.shape[1])[:, None]).sum().backward()
    return hidden.detach(), parameter.grad.clone()


@pytest.mark.parametrize("block", (1, 7, 12, 31))
@pytest.mark.parametrize("exact, limit", ((True, 1e-10), (False, 1e-4)))
def test_a_model_in_blocks_is_the_published_one(small_lm, block, exact, limit):
    lm = small_lm("mlp", exact=exact)
    temporal_layers(lm)[1].self_attn.context = 5  # As under TTT, where attention may be shortened.
    tokens = torch.randint(40, (2, 17, 57))
    published, keys = hear(lm, tokens), list(lm.state_dict())
    set_attention_block(lm, block)
    ours = hear(lm, tokens)
    assert list(lm.state_dict()) == keys
    for mine, theirs in zip(ours, published, strict=True):
        assert not torch.equal(mine, theirs)
        assert (mine - theirs).abs().max() < limit * max(1, theirs.abs().max())
    set_attention_block(lm, None)
    assert type(temporal_layers(lm)[0].self_attn).__name__ == "StreamingMultiheadAttention"
    assert "block" not in vars(temporal_layers(lm)[0].self_attn)
    assert all(torch.equal(*pair) for pair in zip(hear(lm, tokens), published, strict=True))


def test_heads_that_share_keys_and_no_window(small_lm):
    lm = small_lm(None, exact=True)
    tokens = torch.randint(40, (2, 17, 40))
    for layer in temporal_layers(lm):
        attention = layer.self_attn
        attention.context, attention.kv_repeat = None, 2
        projection = attention.in_projs[0]
        projection.weight = torch.nn.Parameter(projection.weight[: 2 * lm.dim].clone())
    published, _ = lm.forward_text(tokens)
    set_attention_block(lm, 9)
    assert (lm.forward_text(tokens)[0] - published).abs().max() < 1e-10


@torch.no_grad()
def test_streaming_and_short_sequences_take_the_published_attention(small_lm, monkeypatch):
    lm = small_lm(None)
    tokens = torch.randint(40, (1, 17, 20))
    published, _ = lm.forward_text(tokens)
    set_attention_block(lm, 10)

    def fail(*_):
        raise AssertionError

    monkeypatch.setattr("ttt.moshi.training.attention.block_attention", fail)
    assert (lm.forward_text(tokens[:, :, :10])[0] - published[:, :10]).abs().max() < 1e-5
    with lm.streaming(1):
        parts = [lm.forward_text(tokens[:, :, step : step + 1])[0] for step in range(20)]
    assert (torch.cat(parts, dim=1) - published).abs().max() < 1e-5
    with pytest.raises(AssertionError):
        lm.forward_text(tokens)


def test_a_block_of_no_frames_is_refused(small_lm):
    lm = small_lm(None)
    with pytest.raises(UserError, match="attention_block=0 must be 1 or more, or None"):
        set_attention_block(lm, 0)
    assert type(temporal_layers(lm)[0].self_attn).__name__ == "StreamingMultiheadAttention"
