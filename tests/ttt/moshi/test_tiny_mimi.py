"""The tiny Mimi: Mimi's rates, codes that vary on unheard speech, a function of its seed."""

import pytest
import torch

from ttt.moshi.tiny import tiny_mimi
from ttt.synthetic.voice import utterance


def test_rates_are_mimis_and_codes_vary_on_unheard_speech() -> None:
    mimi = tiny_mimi(seed=0)
    assert (mimi.sample_rate, mimi.frame_rate, mimi.frame_size) == (24_000, 12.5, 1920)
    assert (mimi.num_codebooks, mimi.cardinality, mimi.training) == (8, 64, False)
    audio = torch.from_numpy(utterance(12_345, 12.0, 24_000, speaker=77))[None, None]
    with torch.no_grad():
        codes = mimi.encode(audio)[0]
    assert codes.shape == (8, 150)
    for book in codes:
        share = torch.bincount(book, minlength=64) / 150
        entropy = -(share * share.clamp(min=1e-9).log()).sum()
        assert entropy > 2  # of log 64 = 4.16 nats
    again = tiny_mimi(seed=0)
    assert all(torch.equal(a, b) for a, b in zip(_tensors(mimi), _tensors(again), strict=True))


def test_the_seed_decides_and_torchs_generator_stays() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = tiny_mimi(seed=1, bins=8), tiny_mimi(seed=2, bins=8)
    assert torch.equal(torch.rand(3), expected)
    assert not all(
        torch.equal(a, b) for a, b in zip(_tensors(first), _tensors(second), strict=True)
    )
    with pytest.raises(ValueError, match="bins must lie between 2 and 800, not 2048"):
        tiny_mimi(bins=2048)


def test_the_number_of_threads_decides_nothing() -> None:
    first = tiny_mimi(seed=0, bins=8)
    torch.set_num_threads(2)
    try:
        second = tiny_mimi(seed=0, bins=8)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(_tensors(first), _tensors(second), strict=True))


def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    return list(module.state_dict().values())
