"""Encoding: every length, any chunking, the same codes."""

import copy

import numpy as np
import pytest
import snac.layers
import torch
from snac import SNAC

from ttt.snac.cache.encode import ClipEncoder, encoder_reach_samples
from ttt.snac.config import EncodeConfig
from ttt.snac.geometry import CodeGeometry
from ttt.snac.layers.units import Snake, Unit


def _noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def _package_codes(model: SNAC, audio: np.ndarray) -> list[np.ndarray]:
    model = _with_snacs_layers(model)
    with torch.inference_mode():
        return [codes[0].numpy() for codes in model.encode(torch.from_numpy(audio)[None, None])]


def _with_snacs_layers(model: SNAC) -> SNAC:
    """A copy as the snac package builds it: a ClipEncoder puts our own layers in."""
    plain = copy.deepcopy(model)
    for module in plain.modules():
        for ours, theirs in ((Snake, snac.layers.Snake1d), (Unit, snac.layers.ResidualUnit)):
            if type(module) is ours:
                module.__class__ = theirs
    return plain


def _snac(encoder_dim: int, attn_window_size: int | None) -> SNAC:
    return SNAC(
        sampling_rate=24_000,
        encoder_dim=encoder_dim,
        encoder_rates=[2, 4, 8, 8],
        decoder_dim=64,
        decoder_rates=[8, 8, 4, 2],
        attn_window_size=attn_window_size,
        codebook_size=64,
        codebook_dim=4,
        vq_strides=[4, 2, 1],
    ).eval()


def test_every_length_from_1_to_4096_has_codes_in_the_ratio_of_the_strides() -> None:
    lengths = range(1, 4097)
    model = _snac(encoder_dim=2, attn_window_size=None)
    codes = ClipEncoder(model, EncodeConfig()).encode(_noise(n, seed=n) for n in lengths)
    geometry = CodeGeometry.of(model)
    assert len(codes) == len(lengths)
    for samples, scales in zip(lengths, codes, strict=True):
        n_coarse = -(-samples // 2048)
        assert [len(scale) for scale in scales] == [n_coarse, 2 * n_coarse, 4 * n_coarse]
        assert geometry.n_coarse_of([len(scale) for scale in scales]) == n_coarse
        assert all(scale.dtype == np.int16 for scale in scales)
    for samples in (1, 511, 2047, 2048, 2049, 4096):
        for ours, theirs in zip(
            codes[samples - 1], _package_codes(model, _noise(samples, samples)), strict=True
        ):
            assert np.array_equal(ours, theirs)


def test_codes_come_in_the_order_of_the_clips_and_do_not_depend_on_the_batch(
    nano_snac: SNAC,
) -> None:
    clips = [_noise(n, seed=n) for n in (5000, 100, 9000, 5001, 101, 30_000, 9001)]
    together = ClipEncoder(nano_snac, EncodeConfig(max_batch_seconds=1)).encode(clips)
    for clip, codes in zip(clips, together, strict=True):
        for ours, theirs in zip(codes, _package_codes(nano_snac, clip), strict=True):
            assert np.array_equal(ours, theirs)


def test_a_batch_holds_equal_lengths_within_the_limit(
    nano_snac: SNAC, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    encode = nano_snac.encode

    def spy(audio: torch.Tensor) -> list[torch.Tensor]:
        shapes.append(tuple(audio.shape))
        return encode(audio)

    monkeypatch.setattr(nano_snac, "encode", spy)
    clips = [_noise(n) for n in (2048, 100, 5000, 2000, 6000, 1, 2, 3, 4, 5, 6, 7, 8)]
    ClipEncoder(nano_snac, EncodeConfig(max_batch_seconds=1)).encode(clips)
    # One second holds 11 coarsest tokens: the eleventh clip of one token fills a batch.
    assert shapes == [(11, 1, 2048), (2, 1, 6144)]


@pytest.mark.parametrize("build", ["plain", "attention"])
def test_chunks_give_the_codes_of_the_whole(build: str, nano_snac: SNAC) -> None:
    model = nano_snac if build == "plain" else _snac(4, attn_window_size=32)
    audio = _noise(24_000 * 7 + 77)
    chunked = ClipEncoder(model, EncodeConfig(chunk_seconds=1)).encode([audio])[0]
    for ours, theirs in zip(chunked, _package_codes(model, audio), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("window", [None, 32])
def test_our_layers_encode_to_snacs_bits(window: int | None) -> None:
    """Before they are rounded to codes: a code would hide all but the largest differences."""
    torch.manual_seed(0)
    model = _snac(8, window)
    for module in model.modules():
        if isinstance(module, snac.layers.Snake1d):
            module.alpha.data.uniform_(0.1, 3.0)
    theirs = copy.deepcopy(model)
    ClipEncoder(model, EncodeConfig())
    assert not any(type(each) is snac.layers.Snake1d for each in model.encoder.modules())
    audio = torch.from_numpy(_noise(3 * 2048 * 32))[None, None]
    with torch.inference_mode():
        assert torch.equal(model.encoder(audio), theirs.encoder(audio))


def test_the_context_of_a_chunk_is_needed_and_enough(nano_snac: SNAC) -> None:
    """The reach is an upper bound of the measured receptive field, and not much above it."""
    model = nano_snac.double()
    audio = torch.randn(1, 1, 2048 * 12, dtype=torch.float64, requires_grad=True)
    frame = 24
    (gradient,) = torch.autograd.grad(model.encoder(audio)[0, :, frame].sum(), audio)
    touched = gradient[0, 0].nonzero()[:, 0] - frame * 512
    measured = max(-int(touched.min()), int(touched.max()))
    assert measured <= encoder_reach_samples(model) <= 1.15 * measured


def test_limits_below_a_second_are_refused() -> None:
    with pytest.raises(ValueError, match="chunk_seconds must be at least 1 second"):
        EncodeConfig(chunk_seconds=0.5)
