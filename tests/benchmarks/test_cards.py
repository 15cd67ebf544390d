"""Cards by their names."""

import pytest

from benchmarks.cards import card_named


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
