"""Random spans held to stepping: agreement is reported as such, and so is a fault."""

import numpy as np
import pytest
import torch

from ttt.moshi import evaluate_codes
from ttt.moshi.streaming.session import Session
from ttt.moshi.streaming.streams import Streams
from ttt.moshi.verify import verify

FRAMES = 60


@pytest.mark.parametrize("options", [{}, {"text_stream": "pad", "other_stream": "zero_id"}])
def test_an_exact_evaluation_passes(small_lm, speech, options):
    lm, codes = small_lm(padding_bias=1.0), speech(frames=FRAMES)
    lengths = [FRAMES, 41]
    result = evaluate_codes(lm, codes, lengths=lengths, **options)
    streams = Streams(lm, codes, lengths=lengths, **options)
    found = verify(lm, streams, result.nll, result.text, spans=4, span_frames=9, seed=1)
    assert 2 * 9 <= found.frames <= 2 * 4 * 9
    assert 0 < found.largest_nll_difference < 1e-5
    assert found.text_differences == found.unexplained_text_differences == 0
    again = verify(lm, streams, result.nll, result.text, spans=4, span_frames=9, seed=1)
    assert again == found


def test_faults_are_found(small_lm, speech):
    lm, codes = small_lm(), speech(frames=FRAMES)
    streams = Streams(lm, codes)
    result = evaluate_codes(lm, codes)
    wrong = result.nll.clone()
    wrong[1, 4, 30] += 0.5
    found = verify(lm, streams, wrong, result.text, spans=1, span_frames=FRAMES)
    assert found.frames == 2 * FRAMES
    assert found.largest_nll_difference == pytest.approx(0.5, abs=1e-4)
    wrong[0, 2, 30] = torch.nan
    found = verify(lm, streams, wrong, result.text, spans=1, span_frames=FRAMES)
    assert np.isnan(found.largest_nll_difference)
    text = result.text.clone()
    text[0, 30] = (text[0, 30] + 1) % 48
    found = verify(lm, streams, result.nll, text, spans=1, span_frames=FRAMES)
    assert found.unexplained_text_differences >= 1
    assert found.largest_nll_difference > 1e-3


def test_spans_fit_a_short_recording(small_lm, speech):
    lm, codes = small_lm(None), speech(frames=3)
    result = evaluate_codes(lm, codes)
    found = verify(lm, Streams(lm, codes), result.nll, result.text, spans=5)
    assert found.frames == 6
    assert torch.tensor(found.largest_nll_difference) < 1e-5


@pytest.mark.parametrize("ttt", [None, "linear", "mlp", "lact"])
@pytest.mark.parametrize("options", [{}, {"text_stream": "pad"}])
def test_a_state_that_drifts_between_spans_is_seen(small_lm, speech, monkeypatch, ttt, options):
    lm, codes = small_lm(ttt), speech(frames=FRAMES)
    forward = Session._forward

    def drifting(session, audio, text):
        heard = forward(session, audio, text)
        if audio.shape[2] > 1:  # What chunks do to the state, steps do not.
            for part in session.lm.get_streaming_state().values():
                if hasattr(part, "kv_cache"):
                    part.kv_cache.cache.mul_(1 - 1e-3)
        return heard

    monkeypatch.setattr(Session, "_forward", drifting)
    result = evaluate_codes(lm, codes, chunk=8, **options)
    streams = Streams(lm, codes, **options)

    def held(beginning_frames: int) -> float:
        found = verify(
            lm, streams, result.nll, result.text, spans=2, span_frames=4, chunk=8,
            beginning_frames=beginning_frames,
        )  # fmt: skip
        assert found.beginning_frames == 2 * min(FRAMES, beginning_frames)
        return found.largest_nll_difference

    monkeypatch.setattr(Session, "_forward", forward)
    exact = verify(lm, streams, result.nll, result.text, spans=0)
    drift = exact.largest_nll_difference
    monkeypatch.setattr(Session, "_forward", drifting)
    assert drift > 1e-3
    assert held(FRAMES) == held(4096) >= drift
    if options:  # With text known, spans alone are led to by chunks that drift alike.
        assert held(1) < drift


def test_the_beginning_and_the_spans_are_counted_apart(small_lm, speech):
    lm, codes = small_lm(), speech(frames=FRAMES)
    lengths = [FRAMES, 41]
    result = evaluate_codes(lm, codes, lengths=lengths)
    streams = Streams(lm, codes, lengths=lengths)
    for beginning, expected in ((1, 2), (20, 40), (50, 91), (4096, 101)):
        found = verify(
            lm, streams, result.nll, result.text, spans=1, span_frames=5, seed=3,
            beginning_frames=beginning,
        )  # fmt: skip
        assert found.beginning_frames == expected
        assert 5 <= found.frames <= 10
        assert found.largest_nll_difference < 1e-5
