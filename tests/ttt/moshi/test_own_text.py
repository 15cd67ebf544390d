"""The text that caches keep is the one that an evaluation's model chooses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ttt.errors import UserError
from ttt.moshi import evaluate_codes, tiny_lm
from ttt.moshi.own_text import own_text

SHAPE = {"dim": 64, "num_layers": 2, "depformer_dim": 32, "context": 20}


@pytest.mark.parametrize("chunk", [1, 7, 32])
@pytest.mark.parametrize("other", ["masked", "silence", "audio"])
def test_it_is_the_text_of_an_evaluation(chunk: int, other: str) -> None:
    lm = tiny_lm(**SHAPE, padding_bias=1.0)
    generator = torch.Generator().manual_seed(chunk)
    codes, silence = torch.randint(0, lm.card, (2, 1, 8, 75), generator=generator)
    streams = {"other_stream": other, "stream": "moshi", "silence": silence[0]}
    text = own_text(lm, codes, chunk=chunk, **streams)
    assert (text.dtype, text.shape) == (np.int32, (75,))
    heard = evaluate_codes(lm, codes, chunk=chunk, **streams)
    assert text.tolist() == heard.text[0].tolist()
    assert len(set(text.tolist())) > 3  # a text that varies
    assert own_text(lm, codes, chunk=5, **streams).tolist() == text.tolist()


def test_what_does_not_fit_the_model_is_one_sentence() -> None:
    lm = tiny_lm(**SHAPE)
    with pytest.raises(UserError, match="codes holds 64 at"):
        own_text(lm, torch.full((1, 8, 3), 64), chunk=4)
