"""The tiny codec's training material: endless, reproducible, and never the unheard voices."""

import itertools

import torch

from ttt.synthetic.codebook_training import BATCH, CROP_SAMPLES, batches, unheard_voices


def test_batches_are_reproducible_crops() -> None:
    first, again = (list(itertools.islice(batches(3), 4)) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert a.shape == (BATCH, 1, CROP_SAMPLES)
        assert torch.isfinite(a).all()
        assert a.abs().max() <= 1.01
        assert torch.equal(a, b)
    assert not torch.equal(first[0], next(batches(4)))


def test_unheard_voices_are_24_khz_and_extend_by_clip() -> None:
    two, three = unheard_voices(2, 0.5), unheard_voices(3, 0.5)
    assert two.shape == (2, 1, 12_000)
    assert torch.equal(two, three[:2])
