"""What fills the streams: each word gives exactly its tokens, and what does not fit is refused."""

import pytest
import torch

from ttt.errors import UserError
from ttt.moshi import evaluate_codes, tiny_lm
from ttt.moshi.streaming.streams import Streams

FRAMES = 20


@pytest.fixture(scope="module")
def lm():
    return tiny_lm(dim=32, num_layers=1, depformer_dim=16, depformer_layers=1)


@pytest.fixture(scope="module")
def wide_lm():
    return tiny_lm(dim=32, num_layers=1, depformer_dim=16, depformer_layers=1, dep_q=16)


@pytest.fixture
def codes(speech):
    return speech(frames=FRAMES)


def test_words_give_their_tokens(lm, codes):
    silence = torch.arange(8 * 25).view(8, 25) % 40
    expected_text = {"pad": 3, "masked": -1, "silence_codes": silence[0, 4:9]}
    for word, expected in expected_text.items():
        streams = Streams(lm, codes, text_stream=word, silence=silence)
        assert (streams.text(4, 5) == expected).all()
        assert streams.text(4, 5).shape == (2, 5)
    expected_other = {
        "masked": -1,
        "zero_id": 0,
        "audio": codes[:, :, 4:9],
        "silence": silence[:, 4:9],
    }
    for word, expected in expected_other.items():
        audio = Streams(lm, codes, other_stream=word, silence=silence).audio(4, 5)
        assert torch.equal(audio[:, :8], codes[:, :, 4:9])
        assert (audio[:, 8:] == expected).all()
    given = Streams(lm, codes, text_stream=codes[:, 0] % 40, other_stream=codes.flip(0))
    assert torch.equal(given.text(17, 5)[:, :3], codes[:, 0, 17:] % 40)
    assert (given.text(17, 5)[:, 3:] == -1).all()
    assert torch.equal(given.audio(2, 3)[:, 8:], codes.flip(0)[:, :, 2:5])


def test_the_users_voice_comes_second(wide_lm, codes):
    streams = Streams(wide_lm, codes, stream="user")
    audio = streams.audio(0, 6)
    assert torch.equal(audio[:, 8:], codes[:, :, :6])
    assert (audio[:, :8] == -1).all()
    assert streams.predicted == slice(8, 16)


def test_ended_recordings_fall_silent(lm, codes):
    streams = Streams(lm, codes, other_stream="zero_id", lengths=[FRAMES, 7])
    audio = streams.audio(5, 40)
    assert (audio[1, :, :2] >= 0).all()
    assert (audio[1, :, 2:] == -1).all()
    assert (audio[0, :, : FRAMES - 5] >= 0).all()
    assert (audio[0, :, FRAMES - 5 :] == -1).all()
    assert streams.alive(5, 3).tolist() == [[True] * 3, [True, True, False]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"text_stream": "predicted"}, "text_stream='predicted' is none of own, pad, masked"),
        ({"other_stream": "zero"}, "other_stream='zero' is none of silence, masked"),
        ({"stream": "other"}, "stream='other' is none of moshi, user"),
        ({"stream": "user"}, "stream='user' needs a model that predicts the user's codes"),
        ({"text_stream": "transcript"}, "give them as a tensor"),
        ({"other_stream": "silence"}, r"'silence' needs the codes of silence"),
        ({"text_stream": "silence_codes"}, "'silence_codes' needs the codes of silence"),
        ({"other_stream": "silence", "silence": torch.zeros(8, 19).long()}, r"\[8, 20\] are need"),
        ({"text_stream": torch.zeros(2, 19).long()}, r"text_stream is torch.int64 \[2, 19\]"),
        ({"text_stream": torch.zeros(2, 20)}, "text_stream is torch.float32"),
        ({"text_stream": torch.full((2, 20), 48)}, r"text_stream holds 48 at \[0, 0\]"),
        ({"other_stream": torch.full((2, 8, 20), 64)}, "other_stream holds 64"),
        ({"lengths": [20]}, r"lengths=\[20\]: 2 recordings"),
        ({"lengths": [20, 0]}, "1 or more frames each"),
        ({"lengths": [20, 21]}, "the codes hold 20 frames"),
        (
            {"text_stream": "silence_codes", "silence": torch.full((8, 20), 63)},
            "silence as text holds 63",
        ),
    ],
)
def test_words_that_do_not_fit_are_refused(lm, codes, change, sentence):
    with pytest.raises(UserError, match=sentence):
        evaluate_codes(lm, codes, **change)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda codes: codes[:, :7], "codes have 7 codebooks, and a voice of this model has 8"),
        (lambda codes: codes.repeat(1, 2, 1), "codes have 16 codebooks"),
        (lambda codes: codes[0], r"not integers \[B, Q, T\]"),
        (lambda codes: codes.float(), "codes are torch.float32"),
        (lambda codes: codes[:, :, :0], "hold no frame"),
        (lambda codes: codes - 1, r"codes holds -1 at .*: this model knows 0 to 63"),
        (lambda codes: codes.to(torch.int16) * 40, "this model knows 0 to 63"),
    ],
)
def test_codes_that_do_not_fit_are_refused(lm, codes, change, sentence):
    with pytest.raises(UserError, match=sentence):
        evaluate_codes(lm, change(codes))
    assert not lm.is_streaming


def test_a_model_of_one_voice_has_no_user(lm, codes):
    alone = tiny_lm(dim=32, num_layers=1, depformer_dim=16, dep_q=16)
    both = codes.repeat(1, 2, 1)
    assert evaluate_codes(alone, both, text_stream="pad").nll.shape == (2, 16, FRAMES)
    for change in ({"stream": "user"}, {"other_stream": "zero_id"}, {"other_stream": both}):
        with pytest.raises(UserError, match="no user stream"):
            evaluate_codes(alone, both, **change)
