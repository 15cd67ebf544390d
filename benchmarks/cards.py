"""What graphics cards do at most, by the name they give themselves, from their data sheets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """The two limits of a card."""

    bytes_per_second: float
    """Of its memory."""
    operations_per_second: float
    """Dense, bfloat16 with sums in float32."""


_CARDS = {
    "B200": Card(8.0e12, 2250e12),
    "GH200": Card(4.0e12, 989e12),
    "H200": Card(4.8e12, 989e12),
    "H100 NVL": Card(3.9e12, 835e12),
    "H100 PCIe": Card(2.0e12, 756e12),
    "H100 80GB HBM3": Card(3.35e12, 989e12),
    "A100-SXM4-80GB": Card(2.039e12, 312e12),
    "A100 80GB PCIe": Card(1.935e12, 312e12),
    "A100-SXM4-40GB": Card(1.555e12, 312e12),
    "A100-PCIE-40GB": Card(1.555e12, 312e12),
    "L40S": Card(0.864e12, 362e12),
    "L4": Card(0.3e12, 121e12),
    "RTX 4090": Card(1.008e12, 165e12),
}


def card_named(name: str) -> Card | None:
    """The card of a name such as "NVIDIA H100 80GB HBM3"; None for one that is not listed.

    A listed name counts where it stands as a whole: an L40 is no L4, and a slice of a card (MIG)
    does not do what the card does.
    """
    if " MIG" in name:
        return None
    words = f" {name} "
    return next((card for listed, card in _CARDS.items() if f" {listed} " in words), None)
