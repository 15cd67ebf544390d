"""The one place that shifts by a delay, against the published model's own arithmetic."""

import pytest
import torch
from moshi.models.lm_utils import _delay_sequence, _undelay_sequence

from ttt.errors import UserError
from ttt.moshi import tiny_lm
from ttt.moshi.streaming.delays import Delays

FRAMES = 23


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


@pytest.fixture(scope="module")
def tokens(lm):
    draw = torch.Generator().manual_seed(1)
    text = torch.randint(lm.text_card, (2, 1, FRAMES), generator=draw)
    audio = torch.randint(lm.card, (2, 16, FRAMES), generator=draw)
    return torch.cat([text, audio], dim=1)


def test_columns_are_those_of_the_published_model(lm, tokens):
    delays = Delays.of(lm)
    initial = lm._get_initial_token().expand(2, -1, -1)
    published = torch.cat([initial, _delay_sequence(lm.delays, tokens, initial)], dim=2)
    assert torch.equal(delays.columns(tokens, 0, FRAMES + 1), published)
    assert torch.equal(delays.columns(tokens.to(torch.int16), 7, 9), published[:, :, 7:16])


def test_the_column_after_the_last_frame_holds_its_acoustic_codes(lm, tokens):
    delays = Delays.of(lm)
    assert delays.steps(FRAMES) == FRAMES + 1
    after = delays.columns(tokens, FRAMES + 1, 1)[:, :, 0]
    for stream, delay in enumerate(lm.delays):
        expected = tokens[:, stream, -1] if delay else torch.tensor([-1, -1])
        assert torch.equal(after[:, stream], expected)


def test_every_code_is_the_target_of_exactly_one_prediction(lm, tokens):
    delays = Delays.of(lm)
    codes = tokens[:, 1:9]
    targets = delays.targets(codes, 0, delays.steps(FRAMES))
    assert torch.equal(delays.by_frame(targets), codes)
    assert (targets >= 0).sum() == codes.numel()
    pieces = [delays.targets(codes, first, 6) for first in range(0, FRAMES + 1, 6)]
    assert torch.equal(torch.cat(pieces, dim=2), targets)


def test_a_step_is_forced_with_what_it_predicts(lm, tokens):
    delays = Delays.of(lm)
    targets = delays.targets(tokens[:, 1:9], 0, FRAMES)
    forced = delays.columns(tokens, 1, FRAMES)[:, 1:9]
    assert torch.equal(targets[targets >= 0], forced[targets >= 0])
    assert (forced[targets < 0] == lm.card).all()


def test_logits_align_as_in_the_published_model(lm):
    delays = Delays.of(lm)
    by_step = torch.randn(2, 8, FRAMES, 5)
    aligned, mask = _undelay_sequence(lm.delays[1:9], by_step)
    by_frame = delays.by_frame(by_step)
    assert by_frame.shape == (2, 8, FRAMES - 1, 5)
    assert torch.equal(by_frame, aligned[:, :, :-1])
    assert mask[:, :, :-1].all()


def test_no_frames_are_all_initial_then_zero(lm):
    delays = Delays.of(lm)
    empty = torch.zeros(1, 17, 0, dtype=torch.long)
    assert (delays.columns(empty, 0, 1)[:, 1:] == lm.card).all()
    assert (delays.columns(empty, 2, 1) == -1).all()


def test_other_models_and_other_codes_are_refused(lm, tokens):
    delays = Delays.of(lm)
    with pytest.raises(ValueError, match="9 streams given, 17 needed"):
        delays.columns(tokens[:, :9], 0, 4)
    with pytest.raises(ValueError, match="7 codebooks given, 8 needed"):
        delays.targets(tokens[:, 1:8], 0, 4)
    late_text = tiny_lm()
    late_text.delays = [2, *lm.delays[1:]]
    with pytest.raises(UserError, match="evaluation needs text without delay"):
        Delays.of(late_text)
