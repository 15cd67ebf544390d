"""Listening by the step and by the chunk: the same numbers as the whole, taken back, resumed."""

import pytest
import torch
from safetensors.torch import load, save

from tests.oracles.reference import step_by_step
from ttt.errors import UserError
from ttt.layers import TTTConfig
from ttt.moshi import Session, insert_ttt
from ttt.moshi.insert import ttt_layers
from ttt.moshi.streaming.heads import Prediction

FRAMES = 3 * 12 + 9
CHUNKINGS = {
    "ones": [1] * FRAMES,
    "fives": [5] * 9,
    "beyond the window": [19, 19, 7],
    "at random": [3, 1, 16, 2, 11, 1, 8, 3],
}


def text_of(lm, batch=2, frames=FRAMES):
    return torch.randint(lm.text_card, (batch, frames), generator=torch.Generator().manual_seed(8))


def hear(session, audio, text, chunks):
    parts, first = [], 0
    for chunk in chunks:
        known = None if text is None else text[:, first : first + chunk]
        parts.append(session.step_chunk(audio[:, :, first : first + chunk], known))
        first += chunk
    return together(parts)


def together(parts):
    return Prediction(
        torch.cat([part.text_logits for part in parts], dim=1),
        torch.cat([part.text for part in parts], dim=1),
        torch.cat([part.audio_logits for part in parts], dim=2),
        torch.cat([part.targets for part in parts], dim=2),
    )


def assert_same(one, other, tolerance):
    assert torch.equal(one.text, other.text)
    assert torch.equal(one.targets, other.targets)
    for name in ("text_logits", "audio_logits"):
        assert (getattr(one, name) - getattr(other, name)).abs().max() <= tolerance


@pytest.mark.parametrize("chunking", CHUNKINGS)
@pytest.mark.parametrize("ttt", [None, "linear", "mlp", "lact"])
@pytest.mark.parametrize(("exact", "tolerance"), [(False, 1e-5), (True, 1e-12)])
@torch.no_grad()
def test_any_chunking_equals_the_models_own_forward(
    small_lm, speech, chunking, ttt, exact, tolerance
):
    lm = small_lm(ttt, exact)
    audio, text = speech(frames=FRAMES, codebooks=16), text_of(lm)
    whole = lm(torch.cat([text[:, None], audio], dim=1))
    with Session(lm, 2, max_chunk=19) as session:
        heard = hear(session, audio, text, CHUNKINGS[chunking])
        by_frame = session.delays.by_frame(heard.audio_logits)
        targets = session.delays.by_frame(heard.targets)
    assert (heard.text_logits - whole.text_logits[:, 0]).abs().max() < tolerance
    assert (by_frame - whole.logits[:, :, :-1]).abs().max() < tolerance
    assert torch.equal(targets, audio[:, :8, :-1])
    assert torch.equal(heard.text, text)


@pytest.mark.parametrize("ttt", [None, "mlp"])
@torch.no_grad()
def test_own_text_equals_the_published_generator(small_lm, speech, ttt):
    lm = small_lm(ttt, padding_bias=1.0)
    audio = speech(frames=FRAMES, codebooks=16)
    stepped = step_by_step(lm, audio)
    ended = torch.full((2, 16, 1), -1)
    for chunk in (1, 10, 23):
        with Session(lm, 2, max_chunk=23) as session:
            padded = torch.cat([audio, ended], dim=2)
            heard = hear(session, padded, None, [chunk] * (FRAMES // chunk) + [FRAMES % chunk + 1])
            by_frame = session.delays.by_frame(heard.audio_logits)
        assert torch.equal(heard.text[:, :FRAMES], stepped.text)
        assert (heard.text_logits[:, :FRAMES] - stepped.text_logits).abs().max() < 1e-5
        assert (by_frame - stepped.audio_logits).abs().max() < 1e-5


@torch.no_grad()
def test_a_step_is_a_chunk_of_one(small_lm, speech):
    lm = small_lm()
    audio = speech(frames=4, codebooks=16)
    with Session(lm, 2) as session:
        steps = [session.step(audio[:, :, frame]) for frame in range(4)]
    with Session(lm, 2) as session:
        chunk = session.step_chunk(audio)
    assert steps[0].text_logits.shape == (2, 48)
    assert steps[0].audio_logits.shape == (2, 8, 64)
    assert torch.equal(torch.stack([each.text for each in steps], dim=1), chunk.text)
    assert torch.equal(torch.stack([each.targets for each in steps], dim=2), chunk.targets)
    stacked = torch.stack([each.audio_logits for each in steps], dim=2)
    assert (stacked - chunk.audio_logits).abs().max() < 1e-5


@torch.no_grad()
def test_a_frame_changes_only_what_may_hear_it(small_lm, speech):
    """The semantic code of frame t from codes before t; the acoustic ones from t + 1's semantic."""
    lm, at = small_lm(exact=True), 20
    audio = speech(batch=1, frames=FRAMES, codebooks=16)
    text = text_of(lm, batch=1)

    def by_frame(tokens):
        with Session(lm, 1) as session:
            return session.delays.by_frame(hear(session, tokens, text, [FRAMES]).audio_logits)

    before = by_frame(audio)
    for codebook in range(16):
        other = audio.clone()
        other[:, codebook, at] = (other[:, codebook, at] + 1) % lm.card
        changed = (by_frame(other) - before).abs().amax(dim=(0, 3)) > 0  # [8, frames]
        first = [int(line.nonzero()[0]) for line in changed]
        if codebook == 0:  # Heard by step at + 1; forced on step at, which predicts at - 1 too.
            assert first == [at + 1] + 7 * [at - 1]
        elif codebook < 8:  # Delayed by a step: predicted with, and told to, the codebooks above.
            after = at if codebook < 7 else at + 1
            assert first == [at + 2] + codebook * [at + 1] + (7 - codebook) * [after]
        elif codebook == 8:
            assert first == [at + 1] + 7 * [at]
        else:
            assert first == [at + 2] + 7 * [at + 1]


@pytest.mark.parametrize("taken", [1, 7, 8, 15, 22])
@torch.no_grad()
def test_frames_taken_back_were_never_heard(small_lm, speech, taken):
    lm = small_lm(exact=True)
    audio, text = speech(frames=FRAMES, codebooks=16), text_of(lm)
    with Session(lm, 2, max_chunk=22) as session:
        straight = hear(session, audio, text, [13, 22, 10])
        session.reset()
        first = session.step_chunk(audio[:, :, :13], text[:, :13])
        session.step_chunk(audio.flip(2)[:, :, :22], text.flip(1)[:, :22])
        session.rollback(taken)
        session.rollback(22 - taken)
        assert session.position == 13
        assert_same(
            together([first, hear(session, audio[:, :, 13:], text[:, 13:], [22, 10])]),
            straight,
            0.0,
        )


@torch.no_grad()
def test_single_steps_can_be_taken_back_to_the_mark(small_lm, speech):
    lm = small_lm(exact=True)
    audio, text = speech(frames=FRAMES, codebooks=16), text_of(lm)
    with Session(lm, 2, max_chunk=9) as session:
        straight = hear(session, audio, text, [1] * 30)
        session.reset()
        heard = hear(session, audio, text, [1] * 20)
        session.mark()
        for _ in range(9):
            session.step(audio[:, :, 0])
        session.rollback(9)
        again = hear(session, audio[:, :, 20:], text[:, 20:], [1] * 10)
        assert_same(together([heard, again]), straight, 1e-12)
        with pytest.raises(UserError, match="cannot take back 10 steps"):
            session.rollback(10)


@pytest.mark.parametrize("ttt", [None, "linear", "mlp", "lact"])
@pytest.mark.parametrize("cut", [0, 1, 5, 16, 31])
@torch.no_grad()
def test_a_saved_session_goes_on_bit_for_bit(small_lm, speech, ttt, cut):
    lm = small_lm(ttt, padding_bias=1.0)
    audio = speech(frames=FRAMES, codebooks=16)
    with Session(lm, 2, max_chunk=10) as session:
        for frame in range(cut):
            session.step(audio[:, :, frame])
        saved = save(session.save_state())
        straight = hear(session, audio[:, :, cut:], None, [7, 7])
    with Session(small_lm(ttt, padding_bias=1.0), 2, max_chunk=10) as session:
        session.load_state(load(saved))
        assert session.position == cut
        assert_same(hear(session, audio[:, :, cut:], None, [7, 7]), straight, 0.0)


@torch.no_grad()
def test_a_state_may_move_to_wider_rings(small_lm, speech):
    lm = small_lm(exact=True)
    audio, text = speech(frames=FRAMES, codebooks=16), text_of(lm)
    with Session(lm, 2, max_chunk=5) as session:
        straight = hear(session, audio, text, [5] * 9)
        session.reset()
        first = hear(session, audio, text, [5] * 4)
        saved = session.save_state()
    with Session(lm, 2, max_chunk=25) as session:
        session.load_state(saved)
        rest = hear(session, audio[:, :, 20:], text[:, 20:], [25])
    assert_same(together([first, rest]), straight, 1e-12)


@torch.no_grad()
def test_states_of_other_models_are_refused(small_lm, speech):
    lm = small_lm()
    audio = speech(frames=20, codebooks=16)
    with Session(lm, 2) as session:
        session.step_chunk(audio)
        saved = session.save_state()
    strangers = [
        (small_lm(None, dim=32), 2),
        (small_lm("linear"), 2),
        (lm, 1),
        (small_lm(num_layers=5), 2),
    ]
    for stranger, batch in strangers:
        with Session(stranger, batch) as session:
            with pytest.raises(UserError, match="does not fit this model and batch"):
                session.load_state(saved)
            session.step_chunk(audio[:batch])
    with Session(lm, 2) as session, pytest.raises(UserError, match="not the state of a session"):
        session.load_state({})


@torch.no_grad()
def test_a_second_session_equals_the_first_and_parameters_stay(small_lm, speech):
    lm = small_lm()
    audio = speech(frames=FRAMES, codebooks=16)
    before = {key: tensor.clone() for key, tensor in lm.state_dict().items()}
    contexts = [layer.self_attn.context for layer in lm.transformer.layers]
    heard = []
    for _ in range(2):
        with Session(lm, 2) as session:
            heard.append(session.step_chunk(audio))
            session.reset()
            heard.append(session.step_chunk(audio))
            assert session.fast_weight_change().shape == (2, 2)
            assert session.fast_weight_change().min() > 0
            assert not session.fast_weight_change().requires_grad  # It would hold all weights.
    for again in heard[1:]:
        assert_same(again, heard[0], 0.0)
    assert all(torch.equal(lm.state_dict()[key], tensor) for key, tensor in before.items())
    assert [layer.self_attn.context for layer in lm.transformer.layers] == contexts
    assert not lm.is_streaming


@torch.no_grad()
def test_layers_with_windows_of_their_own(speech, small_lm):
    lm = small_lm(None, exact=True)
    config = TTTConfig(dim=64, num_heads=4, mini_batch_size=8)
    insert_ttt(lm, [2], config, attention_context=5, gate=0.8)
    audio, text = speech(frames=FRAMES, codebooks=16), text_of(lm)
    whole = lm(torch.cat([text[:, None], audio], dim=1)).text_logits[:, 0]
    with Session(lm, 2, max_chunk=20) as session:
        first = hear(session, audio, text, [20])
        saved = session.save_state()
        assert saved["ring.1.keys"].shape[2] == 12
        assert saved["ring.2.keys"].shape[2] == 5
        session.load_state(saved)
        rest = hear(session, audio[:, :, 20:], text[:, 20:], [20, 5])
    assert (together([first, rest]).text_logits - whole).abs().max() < 1e-12


@torch.no_grad()
def test_a_forward_cut_short_leaves_the_state_as_it_was(small_lm, speech):
    lm = small_lm(exact=True)
    audio, text = speech(frames=FRAMES, codebooks=16), text_of(lm)

    def fail(*_):
        raise torch.OutOfMemoryError("the last layer did not fit")

    with Session(lm, 2, max_chunk=12) as session:
        straight = hear(session, audio, text, [12, 12, 12, 9])
        session.reset()
        first = hear(session, audio, text, [12, 3])
        hook = lm.transformer.layers[3].register_forward_pre_hook(fail)
        with pytest.raises(torch.OutOfMemoryError):
            session.step_chunk(audio[:, :, 15:27], text[:, 15:27])
        hook.remove()
        rest = hear(session, audio[:, :, 15:], text[:, 15:], [12, 12, 6])
    assert_same(together([first, rest]), straight, 1e-12)


def test_bfloat16_text_logits_are_float32(small_lm, speech):
    lm = small_lm("mlp", dtype=torch.bfloat16)
    with Session(lm, 2) as session:
        heard = session.step_chunk(speech(frames=FRAMES, codebooks=16))
    assert heard.text_logits.dtype == torch.float32
    rounded = heard.text_logits.bfloat16().float()
    assert not torch.equal(rounded, heard.text_logits)
    assert torch.equal(heard.text, heard.text_logits.argmax(-1))


@pytest.mark.parametrize(
    ("audio", "text", "sentence"),
    [
        (torch.zeros(2, 8, 4), None, r"audio is \[2, 8, 4\]: this session hears \[2, 16, n\]"),
        (torch.zeros(1, 16, 4), None, r"hears \[2, 16, n\]"),
        (torch.zeros(2, 16, 0), None, "n of 1 or more"),
        (torch.full((2, 16, 4), 64), None, r"audio holds 64 at \[0, 0, 0\]"),
        (torch.zeros(2, 16, 4), torch.zeros(2, 3), r"text is \[2, 3\], not \[2, 4\]"),
        (torch.zeros(2, 16, 4), torch.full((2, 4), 48), "text holds 48"),
        (torch.zeros(2, 16, 4), torch.full((2, 4), -2), "text holds -2"),
        (torch.zeros(2, 16, 9), None, r"chunk of 9 steps does not fit.* room for 8"),
    ],
)
def test_what_cannot_be_heard_is_refused(small_lm, audio, text, sentence):
    with Session(small_lm(), 2, max_chunk=8) as session:
        with pytest.raises(UserError, match=sentence):
            session.step_chunk(audio, text)
        assert session.position == 0


def test_one_session_at_a_time(small_lm):
    lm = small_lm()
    with Session(lm, 1):
        with pytest.raises(UserError, match="streaming already"), Session(lm, 1):
            pass
        with pytest.raises(UserError, match="has TTT in layers"):
            insert_ttt(lm, [0], TTTConfig(dim=64, num_heads=4))
    with Session(lm, 1), pytest.raises(UserError, match="1 or more"):
        Session(lm, 0)
    with pytest.raises(RuntimeError, match="is not open"):
        Session(lm, 1).step(torch.zeros(1, 16))


def test_a_model_without_window_or_with_late_ttt_is_refused(small_lm):
    lm = small_lm(None)
    lm.transformer.layers[0].self_attn.context = None
    with pytest.raises(UserError, match="no window"), Session(lm, 1):
        pass
    streamed, donor = small_lm(None), small_lm()
    with streamed.streaming(1):
        pass
    streamed.transformer.layers[1] = donor.transformer.layers[1]
    assert list(ttt_layers(streamed)) == [1]
    with pytest.raises(UserError, match="inserted after this model first streamed"):
        Session(streamed, 1).__enter__()
    assert not streamed.is_streaming


@pytest.mark.parametrize("max_steps", [5, 30])  # the window is 12
def test_a_session_for_few_steps_predicts_the_same(small_lm, speech, max_steps):
    lm, audio = small_lm(None), speech(codebooks=16, frames=max_steps)
    text = torch.full((2, max_steps), 3)
    with Session(lm, 2, max_chunk=7) as session:
        expected = torch.cat(
            [session.step_chunk(a, t).audio_logits for a, t in _parts(audio, text)], dim=2
        )
    with Session(lm, 2, max_chunk=7, max_steps=max_steps) as session:
        for a, t in _parts(audio, text):  # heard, taken back, heard again
            session.mark()
            session.step_chunk(a, t)
            session.rollback(a.shape[2])
            made = session.step_chunk(a, t).audio_logits
            first = session.position - a.shape[2]
            assert (made - expected[:, :, first : session.position]).abs().max() < 1e-5
        with pytest.raises(UserError, match=rf"opened for {max_steps} steps"):
            session.step_chunk(audio[:, :, :1], text[:, :1])


def _parts(audio, text):
    return zip(audio.split(4, dim=2), text.split(4, dim=1), strict=True)
