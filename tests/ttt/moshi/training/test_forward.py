"""The training forward: the evaluation's numbers, and each way to save memory against the plain."""

import contextlib
import functools
from collections import Counter

import pytest
import torch
from moshi.utils.compile import no_compile

from ttt.errors import UserError
from ttt.moshi import evaluate_codes
from ttt.moshi.insert import ttt_layers
from ttt.moshi.streaming.streams import Streams
from ttt.moshi.training import (
    MemoryConfig,
    forward,
    mini_batches_per_checkpoint,
    sparing,
    training_nll,
)

FRAMES = 56
"""4.7 windows of 12."""
ALL = MemoryConfig(
    attention_block=7, checkpoint_layers=True, checkpoint_mini_batches=2, head_block=9
)
PLAIN = MemoryConfig(attention_block=1000)
OPTIONS = {
    "attention_block": MemoryConfig(attention_block=7),
    "window": MemoryConfig(),
    "checkpoint_layers": MemoryConfig(attention_block=1000, checkpoint_layers=True),
    "checkpoint_mini_batches": MemoryConfig(attention_block=1000, checkpoint_mini_batches=2),
    "auto": MemoryConfig(attention_block=1000, checkpoint_mini_batches="auto"),
    "head_block": MemoryConfig(attention_block=1000, head_block=9),
    "head_block of all": MemoryConfig(attention_block=1000, head_block=500),
    "all": ALL,
}


def frozen(lm):
    """Only what `insert_ttt` added wants gradients."""
    lm.requires_grad_(False)
    for layer in ttt_layers(lm).values():
        layer.requires_grad_(True)
    return lm


def trained_on(lm, codes, memory, **streams):
    """NLL, and the gradients of a weighted sum of it, by name."""
    lm.zero_grad()
    with sparing(lm, memory, codes.shape[2]):
        nll = training_nll(lm, Streams(lm, codes, **streams), head_block=memory.head_block)
        weights = torch.rand(nll.shape, generator=torch.Generator().manual_seed(2)).to(nll)
        (weights * nll).sum().backward()
    gradients = {n: p.grad.clone() for n, p in lm.named_parameters() if p.requires_grad}
    assert all(p.grad is None for p in lm.parameters() if not p.requires_grad)
    return nll.detach(), gradients


@pytest.fixture(scope="module")
def plain_of(small_lm, speech):
    @functools.cache
    def plain(kind):
        lm = frozen(small_lm(kind, exact=True))
        return trained_on(lm, speech(frames=FRAMES), PLAIN, text_stream="pad")

    return plain


@pytest.mark.parametrize("kind", ("mlp", "lact"))
@pytest.mark.parametrize("name", OPTIONS)
def test_each_way_to_save_memory_is_the_plain_one(small_lm, speech, plain_of, name, kind):
    lm, (expected, wanted) = frozen(small_lm(kind, exact=True)), plain_of(kind)
    nll, gradients = trained_on(lm, speech(frames=FRAMES), OPTIONS[name], text_stream="pad")
    assert (nll - expected).abs().max() < 1e-10
    assert gradients.keys() == wanted.keys()
    for key, gradient in gradients.items():
        assert (gradient - wanted[key]).abs().max() < 1e-10, key
        assert gradient.any(), key


def test_a_window_one_frame_shorter_gives_other_numbers(small_lm, speech, plain_of):
    lm = frozen(small_lm("mlp", exact=True, context=11))
    nll, _ = trained_on(lm, speech(frames=FRAMES), ALL, text_stream="pad")
    assert (nll - plain_of("mlp")[0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", (None, "linear", "mlp", "lact"))
@pytest.mark.parametrize("text", ("pad", "masked", "given"))
def test_it_is_the_streaming_evaluation(small_lm, speech, kind, text):
    lm = small_lm(kind)
    codes = speech(frames=FRAMES)
    given = torch.randint(40, (2, FRAMES)) if text == "given" else text
    streams = {"text_stream": given, "lengths": [FRAMES, 41]}
    heard = evaluate_codes(lm, codes, chunk=5, **streams)
    with torch.no_grad(), sparing(lm, ALL, FRAMES):
        nll = training_nll(lm, Streams(lm, codes, **streams), head_block=ALL.head_block)
    assert nll.dtype == torch.float32
    assert torch.equal(nll.isnan(), heard.nll.isnan())
    assert (nll - heard.nll).nan_to_num().abs().max() < 1e-5


def test_own_text_that_was_cached_gives_the_loss_in_own_text(small_lm, speech):
    lm, codes = small_lm("mlp"), speech(frames=FRAMES)
    silence = torch.randint(64, (8, FRAMES))
    others = {"other_stream": "silence", "silence": silence}
    heard = evaluate_codes(lm, codes, **others)
    streams = Streams(lm, codes, text_stream=heard.text, **others)
    with torch.no_grad(), sparing(lm, MemoryConfig(), FRAMES):
        nll = training_nll(lm, streams)
    # The text after the last frame is not cached: it is told to the last frame's acoustic codes.
    assert (nll - heard.nll)[:, :, :-1].abs().max() < 1e-5
    assert (nll - heard.nll)[:, 0].abs().max() < 1e-5


def test_it_is_the_published_forward(small_lm, speech):
    lm, codes = small_lm("mlp", exact=True), speech(frames=FRAMES)
    text = torch.full((2, 1, FRAMES), lm.text_padding_token_id)
    other = torch.full((2, 8, FRAMES), -1)
    with torch.no_grad(), no_compile():
        published = lm(torch.cat([text, codes, other], dim=1))
        nll = training_nll(lm, Streams(lm, codes, text_stream="pad"))
    expected = -published.logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0]
    assert (nll - expected)[published.mask].abs().max() < 1e-10
    assert int((~published.mask).sum()) == 2 * 7  # What only one step more can say.


def test_the_hidden_states_are_the_published_ones(small_lm):
    lm, columns = small_lm("mlp"), torch.randint(-1, 40, (2, 17, 30))
    with torch.no_grad(), no_compile():
        assert torch.equal(forward._hidden(lm, columns), lm.forward_text(columns)[0])


@pytest.mark.parametrize("name", OPTIONS)
def test_the_model_is_as_before_afterwards(small_lm, speech, name):
    lm = small_lm("mlp")
    before = [(type(module), sorted(vars(module))) for module in lm.modules()]
    keys = list(lm.state_dict())
    with contextlib.suppress(ZeroDivisionError), sparing(lm, OPTIONS[name], FRAMES):
        inside = [type(module) for module in lm.modules()]
        assert inside != [kind for kind, _ in before]
        assert list(lm.state_dict()) == keys
        raise ZeroDivisionError
    assert [(type(module), sorted(vars(module))) for module in lm.modules()] == before
    assert evaluate_codes(lm, speech(frames=9), text_stream="pad").nll.isfinite().all()


def test_nothing_is_computed_three_times(small_lm, speech):
    """Once more in the backward pass, also where a layer and its mini-batches are asked for."""
    lm, codes = frozen(small_lm("mlp")), speech(frames=FRAMES)
    calls = Counter()
    for name, layer in (("projection", ttt_layers(lm)[1].layer.q_proj), ("norm", lm.out_norm)):
        layer.register_forward_hook(lambda *_, name=name: calls.update([name]))
    trained_on(lm, codes, ALL, text_stream="pad")
    groups = -(-(FRAMES + 1) // (2 * 8))
    assert calls == {"projection": 2 * groups, "norm": 1}


def test_checkpoints_compute_anew_and_blocks_keep_attention_small(small_lm, speech):
    """Largest product of queries and keys, and bytes kept, with and without."""
    lm, codes = frozen(small_lm("mlp")), speech(frames=FRAMES)
    kept = {}
    for name, memory in (("plain", PLAIN), ("all", ALL)):
        bytes_kept: dict[int, int] = {}

        def keep(tensor, bytes_kept=bytes_kept):
            storage = tensor.untyped_storage()
            bytes_kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            sparing(lm, memory, FRAMES),
        ):
            streams = Streams(lm, codes, text_stream="pad")
            nll = training_nll(lm, streams, head_block=memory.head_block)
        kept[name] = sum(bytes_kept.values())
        del nll
    assert kept["all"] < 0.15 * kept["plain"]


@pytest.mark.parametrize(
    "frames, size, group",
    (
        (24_000, 16, 39),
        (16, 16, 8),
        (3_000, 16, 14),
        (24_000, 64, 19),
        (24_000, 1024, 5),
        (3_000, 2048, 1),
    ),
)
def test_groups_of_mini_batches_follow_the_square_root(frames, size, group):
    assert mini_batches_per_checkpoint(frames, size) == group


def test_own_text_is_not_chosen_while_training(small_lm, speech):
    lm = small_lm(None)
    with pytest.raises(UserError, match="cannot let the model choose its own text: give the text"):
        training_nll(lm, Streams(lm, speech()))


def test_a_streaming_model_is_refused(small_lm, speech):
    lm = small_lm(None)
    streams = Streams(lm, speech(), text_stream="pad")
    with lm.streaming(2), pytest.raises(UserError, match="is streaming: close its session before"):
        training_nll(lm, streams)


@pytest.mark.parametrize("key", ("attention_block", "head_block"))
@pytest.mark.parametrize("value", (0, -1))
def test_blocks_of_nothing_are_refused(key, value):
    with pytest.raises(ValueError, match=f"{key} must be 1 or more, or null, got {value}"):
        MemoryConfig(**{key: value})
    with pytest.raises(ValueError, match="checkpoint_mini_batches must be auto, 0 or more, got -2"):
        MemoryConfig(checkpoint_mini_batches=-2)
