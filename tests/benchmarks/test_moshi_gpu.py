"""The GPU benchmark where there is no GPU: it runs, and its ceiling is what one gets by hand."""

import pytest

from benchmarks.cards import Card, card_named
from benchmarks.moshi_gpu import measure, random_moshi, roofline

SMALL = {"context": 20, "dim": 64, "num_layers": 4, "num_heads": 4, "card": 64, "text_card": 48}


@pytest.mark.parametrize("layers", (range(0), range(1, 3)))
@pytest.mark.parametrize(("batch", "chunk"), ((1, 32), (2, 64)))
def test_a_small_model_is_measured_on_the_cpu(layers, batch, chunk):
    lm = random_moshi("cpu", layers, {**SMALL, "depformer_dim": 32, "depformer_layers": 1})
    ttt, rows, steps, speed, *most, taken, computed = measure(lm, batch, chunk, 2).split()
    assert (int(ttt), int(rows), int(steps)) == (len(layers), batch, chunk)
    assert float(speed) > 0
    assert most == ["-", "-"]  # nobody has listed what this processor does at most
    assert taken == "-"
    assert float(computed) >= 0


# GB a pass at 4.8 TB/s: 13.4 temporal and text head, 1.33 depformer (a share of it where a block
# has several passes), 1.57 of rings per stream.
@pytest.mark.parametrize(
    ("batch", "chunk", "gigabytes"),
    ((1, 1, 13.4 + 1.33 / 128 + 1.57), (1, 64, 13.4 + 1.33 / 2 + 1.57), (8, 32, 27.3)),
)
def test_the_ceiling_of_the_7b(batch, chunk, gigabytes):
    lm = random_moshi("meta", range(0))
    for name, bandwidth in (("NVIDIA H200", 4.8e12), ("NVIDIA H100 80GB HBM3", 3.35e12)):
        frames_per_second = batch * chunk * bandwidth / (gigabytes * 1e9)
        found = roofline(lm, batch, chunk, _card(name))
        assert found == pytest.approx(frames_per_second, rel=0.03)


def test_the_ceiling_of_many_frames_is_arithmetic():
    lm = random_moshi("meta", range(0))
    # 7.37 billion weights, each multiplied and added once a frame, at 989 TFLOP/s.
    assert roofline(lm, 8, 128, _card("NVIDIA H200")) == pytest.approx(
        989e12 / (2 * 7.37e9), rel=0.02
    )


@pytest.mark.parametrize(
    ("name", "terabytes_per_second"),
    (
        ("NVIDIA H200", 4.8),
        ("NVIDIA GH200 480GB", 4.0),
        ("NVIDIA H100 80GB HBM3", 3.35),
        ("NVIDIA H100 PCIe", 2.0),
        ("NVIDIA H100 NVL", 3.9),
        ("NVIDIA A100-SXM4-80GB", 2.039),
        ("NVIDIA A100 80GB PCIe", 1.935),
        ("NVIDIA A100-SXM4-40GB", 1.555),
        ("NVIDIA L4", 0.3),
        ("NVIDIA GeForce RTX 4090", 1.008),
        ("NVIDIA L40", None),
        ("NVIDIA H100 80GB HBM2e", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla T4", None),
        ("", None),
    ),
)
def test_a_card_is_known_by_its_whole_name(name, terabytes_per_second):
    card = card_named(name)
    found = None if card is None else card.bytes_per_second / 1e12
    assert found == terabytes_per_second


def _card(name: str) -> Card:
    card = card_named(name)
    assert card is not None
    return card
