"""The time arithmetic against tables worked out by hand and against the package itself."""

import pytest
import torch
from snac import SNAC

from ttt.snac.geometry import CodeGeometry

TINY = {
    "sampling_rate": 24000,
    "encoder_dim": 4,
    "decoder_dim": 32,
    "codebook_size": 16,
    "attn_window_size": None,
}


def test_seed_table():
    seed = CodeGeometry.preset("seed")
    rows = [seed.tokens(s, rule="floor_per_second") for s in (1, 2, 3, 4)]
    assert rows == [(6, 12, 24), (12, 24, 48), (18, 36, 72), (24, 48, 96)]
    # What the original's code did instead of its table.
    assert [seed.tokens(s) for s in (2, 3, 4)] == [(13, 26, 52), (20, 40, 80), (27, 54, 108)]
    assert seed.samples_48k(6) == 42_336


def test_published_geometry():
    snac24 = CodeGeometry.preset("snac_24khz")
    rows = [snac24.tokens(s) for s in (1, 2, 3, 4)]
    assert rows == [(11, 22, 44), (23, 46, 92), (35, 70, 140), (46, 92, 184)]
    samples = [snac24.samples_48k(row[0]) for row in rows]
    assert samples == [45_056, 94_208, 143_360, 188_416]


@pytest.mark.parametrize(
    "rates, strides, attention",
    [
        ([2, 4, 8, 8], [4, 2, 1], None),
        ([2, 3, 8, 8], [8, 4, 2, 1], None),
        ([3, 3, 7, 7], [8, 4, 2, 1], None),
        ([2, 4, 8, 8], [4, 2, 1], 32),
    ],
)
def test_geometry_equals_what_the_package_does(rates, strides, attention):
    model = SNAC(
        **{**TINY, "attn_window_size": attention, "encoder_dim": 16, "decoder_dim": 64},
        encoder_rates=rates,
        decoder_rates=rates[::-1],
        vq_strides=strides,
    ).eval()
    geometry = CodeGeometry.of(model)
    samples = 2 * geometry.coarse_samples + 17
    with torch.inference_mode():
        codes = model.encode(torch.randn(1, 1, samples))
        audio = model.decode([scale.clone() for scale in codes])
    n_coarse = geometry.n_coarse_covering(samples)
    assert tuple(scale.shape[-1] for scale in codes) == geometry.lengths(n_coarse)
    assert audio.shape[-1] == geometry.samples(n_coarse)
    assert geometry.n_coarse_of([scale.shape[-1] for scale in codes]) == n_coarse


def test_json_round_trip_and_columns():
    geometry = CodeGeometry.preset("snac_24khz")
    assert CodeGeometry.from_json(geometry.to_json()) == geometry
    assert geometry.columns() == (slice(0, 1), slice(1, 3), slice(3, 7))


def test_the_token_of_a_48_khz_sample():
    geometry = CodeGeometry.preset("snac_24khz")
    samples = (0, 4095, 4096, 8191, 8192)
    assert [geometry.coarse_at_48k(sample) for sample in samples] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("seconds", [0.3, 0.6, 1.1])
def test_segments_do_not_lose_a_token_to_binary_rounding(seconds):
    geometry = CodeGeometry(sample_rate=1000, hop_samples=100, strides=(1,))
    assert geometry.tokens(seconds) == (round(seconds * 10),)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda g: g.tokens(0), "holds no token"),
        (lambda g: g.tokens(0.01), "shorter than one coarsest token"),
        (lambda g: g.tokens(1.5, rule="floor_per_second"), "needs whole seconds"),
        (lambda g: g.tokens(1, rule="round"), "unknown rule"),
        (lambda g: g.n_coarse_of([3, 6, 11]), "do not cover the same time"),
        (lambda g: g.preset("snac_44khz"), "unknown geometry preset"),
    ],
)
def test_refusals(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(CodeGeometry.preset("snac_24khz"))
