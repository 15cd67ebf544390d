"""Guessing text: what stands, what is guessed next, and that batches keep what all agree to."""

import pytest
import torch

from ttt.moshi import Session
from ttt.moshi.streaming.speculate import (
    NEAR_TIE,
    Acceptance,
    best_text,
    guess_text,
    steps_that_stand,
)


def test_a_step_stands_when_all_guesses_before_it_were_right():
    guess, clear = torch.tensor([[3, 5, 3, 9, 3]]), torch.ones(1, 5)
    for chosen, kept in (
        ([[3, 5, 3, 9, 3]], 5),
        ([[3, 5, 3, 9, 7]], 5),  # The last guess was never heard.
        ([[3, 5, 3, 8, 3]], 4),
        ([[7, 5, 3, 9, 3]], 1),
    ):
        assert steps_that_stand(guess, torch.tensor(chosen), clear, None) == (kept, 0)


def test_rows_keep_what_all_of_them_agree_to():
    guess, chosen = (
        torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]]),
        torch.tensor([[1, 2, 3, 4], [1, 9, 3, 4]]),
    )
    clear = torch.ones(2, 4)
    assert steps_that_stand(guess, chosen, clear, None) == (2, 0)
    alive = torch.tensor([[True] * 4, [True, False, False, False]])
    assert steps_that_stand(guess, chosen, clear, alive) == (4, 0)


def test_near_ties_count_where_steps_stand_and_rows_have_frames():
    guess, chosen = torch.tensor([[1, 2, 3], [1, 2, 3]]), torch.tensor([[1, 2, 3], [1, 9, 3]])
    margin = torch.tensor([[1, NEAR_TIE / 2, 0], [0, NEAR_TIE, 0]])
    assert steps_that_stand(guess, chosen, margin, None) == (2, 2)
    alive = torch.tensor([[True] * 3, [False] * 3])
    assert steps_that_stand(guess, chosen, margin, alive) == (3, 2)


def test_pending_guesses_come_first_then_padding():
    pending = torch.tensor([[5, 6, 7]])
    assert guess_text(pending, 5, 3).tolist() == [[5, 6, 7, 3, 3]]
    assert guess_text(pending, 2, 3).tolist() == [[5, 6]]
    assert guess_text(pending[:, :0], 2, 3).tolist() == [[3, 3]]


def test_the_margin_is_to_the_second_best():
    tokens, margin = best_text(torch.tensor([[[0.5, 2.0, 1.75], [3.0, 1.0, 0.0]]]))
    assert tokens.tolist() == [[1, 0]]
    assert margin.tolist() == [[0.25, 2.0]]


def test_the_rate_is_the_share_that_stood():
    acceptance = Acceptance()
    assert acceptance.rate == 1.0
    acceptance.count(heard=8, kept=2, near_ties=1)
    acceptance.count(heard=8, kept=4)
    assert acceptance == Acceptance(passes=2, heard=16, kept=6, near_ties=1)
    assert acceptance.rate == pytest.approx(6 / 16)


def test_what_rejected_steps_chose_is_guessed_next(small_lm, speech):
    """Against the same passes with padding guessed afresh each time."""
    lm = small_lm(padding_bias=1.5)
    audio = speech(batch=1, frames=200, codebooks=16)
    passes, texts = [], []
    for forget in (False, True):
        with Session(lm, 1, max_chunk=20) as session:
            parts = []
            while session.position < 150:
                first = session.position
                if forget:
                    session.rollback(0)
                parts.append(session.listen_own(audio[:, :, first : first + 20]).text)
            passes.append(session.acceptance.passes)
            texts.append(torch.cat(parts, dim=1)[:, :150])
    assert torch.equal(*texts)
    assert passes[0] < 0.8 * passes[1]
