"""Memory that runs out anywhere: what was begun is taken back or finished, and numbers stay."""

import pytest
import torch
from moshi.modules.transformer import RingKVCache, StreamingTransformerLayer

from ttt.errors import UserError
from ttt.layers import TTTLayer, TTTState
from ttt.moshi import Evaluation, Session, evaluate_codes
from ttt.moshi import codes as codes_module
from ttt.moshi.insert import StreamingTTT, ttt_layers
from ttt.moshi.streaming import evaluate as evaluate_module
from ttt.moshi.streaming import heads, session
from ttt.moshi.streaming import state as streaming_state
from ttt.moshi.streaming.streams import Streams
from ttt.moshi.tiny import tiny_mimi

FRAMES = 41

OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
)


class Failing:
    """Calls the function, but for some calls, counted from 1, which raise."""

    def __init__(self, function, fails, error=OUT_OF_MEMORY[0]):
        self.function, self.fails, self.error, self.calls = function, fails, error, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls in self.fails:
            raise self.error
        return self.function(*args, **kwargs)

    def __get__(self, instance, owner):
        return lambda *args, **kwargs: self(instance, *args, **kwargs)


def failing(monkeypatch, where, name, fails, error=OUT_OF_MEMORY[0]):
    double = Failing(getattr(where, name), fails, error)
    monkeypatch.setattr(where, name, double)
    return double


# -- while starting --------------------------------------------------------------------------------

STARTING = (
    (RingKVCache, "__init__", (3,)),
    (RingKVCache, "__init__", (1,)),
    (TTTLayer, "init_state", (2,)),
    (StreamingTTT, "_init_streaming_state", (1,)),
    (StreamingTransformerLayer, "_init_streaming_state", (4,)),
    (StreamingTTT, "mark", (2,)),
    (Session, "nothing", (2,)),
    (Session, "nothing", (3,)),
)


@pytest.mark.parametrize(("where", "name", "fails"), STARTING)
@pytest.mark.parametrize("error", (OUT_OF_MEMORY[0], KeyboardInterrupt()), ids=type)
def test_a_model_that_could_not_start_to_stream_can_start_again(
    small_lm, speech, monkeypatch, where, name, fails, error
):
    lm, codes = small_lm(padding_bias=2.0), speech(frames=FRAMES)
    expected = evaluate_codes(small_lm(padding_bias=2.0), codes, chunk=8)
    contexts = [layer.self_attn.context for layer in lm.transformer.layers]
    with monkeypatch.context() as patch:
        double = failing(patch, where, name, fails, error)
        with pytest.raises(type(error)):
            evaluate_codes(lm, codes, chunk=8)
        assert double.calls == max(fails)
    assert not any(getattr(part, "is_streaming", False) for part in lm.modules())
    assert [layer.self_attn.context for layer in lm.transformer.layers] == contexts
    assert torch.equal(evaluate_codes(lm, codes, chunk=8).nll, expected.nll)


def test_mimi_that_could_not_start_to_stream_can_start_again(tmp_path, monkeypatch):
    monkeypatch.setattr(codes_module, "_SILENCE_AT_LEAST", 4)
    mimi = tiny_mimi(seed=1, bins=8, context=30)
    with monkeypatch.context() as patch:
        failing(patch, RingKVCache, "__init__", (3,))
        with pytest.raises(torch.OutOfMemoryError):
            codes_module.silence_codes(mimi, 4, tmp_path, "a" * 64)
    assert not any(getattr(part, "is_streaming", False) for part in mimi.modules())
    assert codes_module.silence_codes(mimi, 4, tmp_path, "a" * 64).shape == (8, 4)


def test_who_streams_already_goes_on(small_lm, speech):
    lm, audio = small_lm(), speech(codebooks=16, frames=9)
    with Session(lm, 2) as first:
        first.step_chunk(audio)
        with pytest.raises(AssertionError, match="already streaming"):
            streaming_state.start_streaming(lm, 2)
        first.step_chunk(audio)
        assert first.position == 18


# -- between a forward and what is kept of it ------------------------------------------------------

BEHIND_THE_FORWARD = (
    (session, "best_text", (1,)),
    (session, "best_text", (4, 5)),
    (session, "steps_that_stand", (4,)),
    (session, "steps_that_stand", (7, 8, 9)),
    (session.torch, "cat", (40,)),
    (session.torch, "cat", (41, 42)),
    (Session, "_exact", (2,)),
    (TTTState, "rollback", (1,)),
    (TTTState, "rollback", (4, 5)),
    (StreamingTTT, "rollback", (2,)),
    (StreamingTTT, "rollback", (2, 3)),
    (evaluate_module, "join", (1,)),
    (Session, "audio_logits", (1,)),
    (evaluate_module, "negative_log_likelihood", (1, 2)),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_every_way_to_say_it_halves_the_chunk(small_lm, speech, monkeypatch, error):
    lm, codes = small_lm(exact=True, padding_bias=2.0), speech(frames=FRAMES)
    expected = evaluate_codes(lm, codes, chunk=8)
    failing(monkeypatch, session, "best_text", (3,), error)
    found = evaluate_codes(lm, codes, chunk=8)
    assert [chunk for _, chunk in found.chunks] == [8, 4]
    assert (found.nll - expected.nll).abs().max() < 1e-6
    assert torch.equal(found.text, expected.text)


@pytest.mark.parametrize(("where", "name", "fails"), BEHIND_THE_FORWARD)
def test_memory_that_runs_out_behind_the_forward_halves_the_chunk(
    small_lm, speech, monkeypatch, where, name, fails
):
    lm, codes = small_lm(exact=True, padding_bias=2.0), speech(frames=FRAMES)
    expected = evaluate_codes(lm, codes, chunk=16)
    with Evaluation(Streams(lm, codes), chunk=16) as evaluation:
        with monkeypatch.context() as patch:
            double = failing(patch, where, name, fails)
            blocks = list(evaluation)
        reached = len([call for call in fails if call <= double.calls])
        assert reached
        # A rollback that fails is tried again, and its second failure may belong to the first.
        assert 1 < len(evaluation.chunks) <= 1 + reached
    nll = torch.cat([block.nll for block in blocks], dim=2)
    assert torch.equal(torch.cat([block.text for block in blocks], dim=1), expected.text)
    assert (nll - expected.nll).abs().max() < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("own_text", (True, False))
@pytest.mark.parametrize(
    ("where", "name"),
    (
        (heads, "audio_logits"),
        (Session, "text_logits"),
        (session, "join"),
        (session, "best_text"),
    ),
)
def test_a_chunk_of_which_nothing_came_has_not_been_heard(
    small_lm, speech, monkeypatch, where, name, own_text
):
    lm, audio = small_lm(exact=True), speech(codebooks=16, frames=24)
    if not own_text and name == "best_text":
        return
    text = None if own_text else torch.full((2, 24), 3)

    def rest(first):
        return None if text is None else text[:, first : first + 12]

    with Session(lm, 2, max_chunk=12) as straight:
        straight.step_chunk(audio[:, :, :12], rest(0))
        expected = straight.step_chunk(audio[:, :, 12:], rest(12))
    with Session(lm, 2, max_chunk=12) as broken:
        broken.step_chunk(audio[:, :, :12], rest(0))
        with monkeypatch.context() as patch:
            failing(patch, where, name, (1,))
            with pytest.raises(torch.OutOfMemoryError):
                broken.step_chunk(audio[:, :, 12:], rest(12))
        assert broken.position == 12
        found = broken.step_chunk(audio[:, :, 12:], rest(12))
    assert torch.equal(found.text, expected.text)
    assert (found.audio_logits - expected.audio_logits).abs().max() < 1e-12


# -- while something is put back -------------------------------------------------------------------


def _fail_in_the_last_layer(lm, passes):
    """The forward raises in the last layer, where earlier layers have heard the chunk already."""
    calls = []

    def hook(*_):
        calls.append(1)
        if len(calls) in passes:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return lm.transformer.layers[-1].register_forward_pre_hook(hook)


@pytest.mark.parametrize("text_stream", ("own", "pad"))
@pytest.mark.parametrize("rollbacks", ((1,), (2,), (1, 2)))
@pytest.mark.parametrize(
    ("where", "name"),
    ((StreamingTTT, "rollback"), (streaming_state.StreamingState, "_set_offsets")),
)
def test_a_rollback_that_fails_as_well_is_finished_before_the_next_forward(
    small_lm, speech, monkeypatch, text_stream, rollbacks, where, name
):
    lm, codes = small_lm(exact=True, padding_bias=2.0), speech(frames=FRAMES)
    settings = {"text_stream": text_stream, "chunk": 16}
    expected = evaluate_codes(lm, codes, **settings)
    hook = _fail_in_the_last_layer(lm, (2,))
    with Evaluation(Streams(lm, codes, text_stream=text_stream), chunk=16) as evaluation:
        next(iter(evaluation._sparingly(evaluation._listen) or [None]))
        failing(monkeypatch, where, name, rollbacks)
        blocks = list(evaluation)
        assert len(evaluation.chunks) > 1
    hook.remove()
    nll = torch.cat([block.nll for block in blocks], dim=2)
    assert (nll - expected.nll).abs().max() < 1e-6
    assert torch.equal(torch.cat([block.text for block in blocks], dim=1), expected.text)


@torch.no_grad()
@pytest.mark.parametrize(
    "afterwards",
    ("step_chunk", "mark", "rollback", "save_state", "fast_weight_change", "reset_ttt", "reset"),
)
def test_whatever_follows_a_failed_rollback_begins_with_it(
    small_lm, speech, monkeypatch, afterwards
):
    lm, audio = small_lm(exact=True), speech(codebooks=16, frames=20)
    text = torch.full((2, 20), 3)

    def go_on(open_session):
        saved = {}
        if afterwards == "rollback":
            open_session.rollback(3)
        elif afterwards != "step_chunk":
            saved = getattr(open_session, afterwards)()
        if isinstance(saved, dict) and saved:
            open_session.reset()
            open_session.load_state(saved)
        first = open_session.position
        return first, open_session.step_chunk(audio[:, :, :9], text[:, :9])

    results = []
    for breaks in (False, True):
        with Session(lm, 2, max_chunk=12) as one:
            one.step_chunk(audio[:, :, :11], text[:, :11])
            if breaks:
                hook = _fail_in_the_last_layer(lm, (1,))
                with monkeypatch.context() as patch:
                    failing(patch, StreamingTTT, "rollback", (1,))
                    with pytest.raises(torch.OutOfMemoryError):
                        one.step_chunk(audio[:, :, 11:12], text[:, 11:12])
                hook.remove()
            results.append(go_on(one))
    (first, expected), (again, found) = results
    assert first == again
    assert (found.audio_logits - expected.audio_logits).abs().max() < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("which", ("reset", "reset_ttt"))
def test_a_reset_that_fails_is_finished_before_the_next_forward(
    small_lm, speech, monkeypatch, which
):
    lm, audio = small_lm(exact=True), speech(codebooks=16, frames=20)
    results = []
    for breaks in (False, True):
        with Session(lm, 2, max_chunk=20) as one:
            one.step_chunk(audio)
            if breaks:
                with monkeypatch.context() as patch:
                    failing(patch, TTTLayer, "reset", (2,))
                    with pytest.raises(torch.OutOfMemoryError):
                        getattr(one, which)()
            else:
                getattr(one, which)()
            results.append(one.step_chunk(audio))
    assert (results[0].audio_logits - results[1].audio_logits).abs().max() < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("error", (OUT_OF_MEMORY[0], torch.AcceleratorError("CUDA error: x")))
def test_a_state_that_does_not_fit_the_memory_is_not_called_anothers(
    small_lm, speech, monkeypatch, error
):
    lm, audio = small_lm(exact=True), speech(codebooks=16, frames=20)
    with Session(lm, 2, max_chunk=20) as one:
        expected = one.step_chunk(audio)
        saved = one.save_state()
        with monkeypatch.context() as patch:
            failing(patch, streaming_state.StreamingState, "_saved_ttt", (2,), error)
            with pytest.raises(type(error)):
                one.load_state(saved)
        assert one.position == 0
        assert (one.step_chunk(audio).audio_logits - expected.audio_logits).abs().max() < 1e-12
        with pytest.raises(UserError, match="does not fit this model"):
            one.load_state({**saved, "ring.0.keys": torch.zeros(3)})
        assert len(ttt_layers(lm)) == 2
        assert (one.step_chunk(audio).audio_logits - expected.audio_logits).abs().max() < 1e-12
