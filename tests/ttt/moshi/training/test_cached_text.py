"""What text that was chosen from the chapter's start does to a window that begins later.

It is exactly the evaluation's in a window from the first frame, but for the acoustic codes of the
last frame: they are predicted one step after it, and the text of that step is of no frame. In a
later window it knows frames that the window has not heard: a model that hears the window alone
would have chosen other text, and finds other losses.
"""

from __future__ import annotations

import torch

from ttt.moshi import evaluate_codes, tiny_lm
from ttt.moshi.own_text import own_text
from ttt.moshi.streaming.streams import Streams
from ttt.moshi.training import MemoryConfig, sparing, training_nll

CONTEXT, FRAMES, START = 20, 160, 80
STREAMS = {"other_stream": "masked", "stream": "moshi"}


def test_cached_text_is_exact_from_the_start_and_close_in_a_later_window() -> None:
    lm = tiny_lm(dim=64, num_layers=2, depformer_dim=32, context=CONTEXT, padding_bias=1.0)
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(0, lm.card, (1, 8, FRAMES), generator=generator)
    text = torch.from_numpy(own_text(lm, codes, chunk=16, **STREAMS))

    whole = evaluate_codes(lm, codes, chunk=16, **STREAMS).nll[:, :, :-1]
    told = _told(lm, codes, text)[:, :, :-1]
    torch.testing.assert_close(told, whole, rtol=1e-5, atol=1e-5)

    window = codes[:, :, START:]
    told = _told(lm, window, text[START:])
    alone = evaluate_codes(lm, window, chunk=16, **STREAMS)
    differing = (alone.text[0].cpu() != text[START:]).float()
    assert 0 < differing.mean() < 1, "the window chooses other text than the chapter"
    change = (told - alone.nll).nanmean().item()
    per_frame = (told - alone.nll).abs().nanmean(dim=1)[0]
    print(
        f"{differing.mean():.0%} of the text differs; the mean loss by {change:+.4f} nats, a "
        f"frame's by {per_frame.nanmean():.4f}"
    )
    assert per_frame[differing[: len(per_frame)].bool()].nanmean() > 1e-3
    assert abs(change) < 0.1, "a window is not taught by another loss than it is measured by"


def _told(lm: torch.nn.Module, codes: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """The loss in training [1, 8, T] with this text."""
    streams = Streams(lm, codes, text_stream=text[None], **STREAMS)
    with torch.no_grad(), sparing(lm, MemoryConfig(), codes.shape[2]):
        return training_nll(lm, streams)
