"""The GPU benchmark where there is no GPU: it runs, and its ceiling is what one gets by hand."""

import pytest

from benchmarks.moshi_gpu import measure, random_moshi, roofline

SMALL = {"context": 20, "dim": 64, "num_layers": 4, "num_heads": 4, "card": 64, "text_card": 48}


@pytest.mark.parametrize("layers", (range(0), range(1, 3)))
@pytest.mark.parametrize(("batch", "chunk"), ((1, 32), (2, 64)))
def test_a_small_model_is_measured_on_the_cpu(layers, batch, chunk):
    lm = random_moshi("cpu", layers, {**SMALL, "depformer_dim": 32, "depformer_layers": 1})
    ttt, rows, steps, speed, most, *_, taken, computed = measure(lm, batch, chunk, 2).split()
    assert (int(ttt), int(rows), int(steps)) == (len(layers), batch, chunk)
    assert 0 < float(speed) < float(most)
    assert taken == "-"
    assert float(computed) >= 0


# GB a pass at 4.8 TB/s: 13.4 temporal and text head, 1.33 depformer (a share of it where a block
# has several passes), 1.57 of rings per stream.
@pytest.mark.parametrize(
    ("batch", "chunk", "gigabytes"),
    ((1, 1, 13.4 + 1.33 / 128 + 1.57), (1, 64, 13.4 + 1.33 / 2 + 1.57), (8, 32, 27.3)),
)
def test_the_ceiling_of_the_7b(batch, chunk, gigabytes):
    frames_per_second = batch * chunk * 4.8e12 / (gigabytes * 1e9)
    lm = random_moshi("meta", range(0))
    assert roofline(lm, batch, chunk) == pytest.approx(frames_per_second, rel=0.03)


def test_the_ceiling_of_many_frames_is_arithmetic():
    lm = random_moshi("meta", range(0))
    # 7.37 billion weights, each multiplied and added once a frame, at 989 TFLOP/s.
    assert roofline(lm, 8, 128) == pytest.approx(989e12 / (2 * 7.37e9), rel=0.02)
