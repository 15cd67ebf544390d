"""What a validation's rows are called, and what they say together."""

from __future__ import annotations

from collections.abc import Mapping

from ttt.training.trainee import Row

TRAINED, BASE = "trained", "base"
"""Rows of losses: of what is trained, and of the base model alone, which never changes."""
CURVE, BASE_CURVE = "curve", "base_curve"
"""Rows of losses by position."""
GATE, FAST_WEIGHT_CHANGE = "gate", "fast_weight_change"
"""Rows by TTT layer: mean |tanh(alpha)|, and how far fast weights have moved by a span's end."""


def differences(rows: Mapping[str, Row]) -> Row:
    """What training has changed: each loss of what is trained minus that of the base.

    Args:
        rows: of a result that a hook is told, which has the base's, too.
    """
    trained, base = rows[TRAINED], rows[BASE]
    return {name: trained[name] - base[name] for name in trained if name in base}
