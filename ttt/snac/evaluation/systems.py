"""The rows and columns of a decoder's comparison, and the values they hold by clip."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ttt.snac.evaluation.trick_levels import FittedTricks, Level, at_level

TRUE = "true_48k"
"""The truth itself; it has no row, but is seen and heard."""
OURS = "ours_48k"
OURS_WITHOUT_FLOOR = "ours_48k_without_floor"
"""What the decoder's network gives, before its noise floor; only of decoders that have one."""
OURS_24K = "ours_24k_tuned_resampled"
BASELINE = "resampled_decode24"
CEILING = "resampled_true24"
SILENCE = "silence"
"""No audio at all; not shown, but it tells which guard guards little."""
HISS, FOLDING_HISS = "hiss", "folding_hiss"
"""The cheap tricks at the levels that are strongest on the clips measured."""
HISS_BEFORE, FOLDING_HISS_BEFORE = "hiss_fitted_before", "folding_hiss_fitted_before"
"""The same at the levels that were strongest on the training run's validation clips."""

SYSTEM_NAMES = {
    OURS: "Ours, 48 kHz",
    OURS_WITHOUT_FLOOR: "Ours, without its noise floor",
    OURS_24K: "Ours, tuned 24 kHz output, resampled",
    BASELINE: "Untouched codec at 24 kHz, resampled",
    HISS_BEFORE: "The same + hiss, level from validation",
    FOLDING_HISS_BEFORE: "The same + folding + hiss, levels from validation",
    HISS: "The same + hiss, level from these clips",
    FOLDING_HISS: "The same + folding + hiss, levels from these clips",
    CEILING: "True audio at 24 kHz, resampled",
}
"""Every row of a result table, in its order: key -> words."""

METRIC_NAMES = {
    "lsd": "LSD",
    "lsd_lf": "LSD-LF",
    "lsd_hf": "LSD-HF",
    "lsd_hf_shape": "LSD-HF, offset out",
    "env_r": "env-r",
    "si_sdr": "SI-SDR (dB)",
    "l1": "L1",
}
"""Every column: key -> words. All fall as audio improves, except env-r and SI-SDR, which rise."""

ClipRow = Mapping[str, Mapping[str, Any]]
"""Of one clip: system -> metric -> value; None where it is undefined (SI-SDR of silence). Rows
written before a system or metric was measured lack its key."""


def with_tricks(
    rows: Sequence[ClipRow], before: FittedTricks | None, here: FittedTricks | None
) -> list[dict[str, Mapping[str, Any]]]:
    """The rows with the tricks' systems taken from their grids at the fitted levels."""
    return [{**row, **_tricks(row, before, here)} for row in rows]


def trick_levels(before: FittedTricks | None, here: FittedTricks | None) -> dict[str, Level]:
    """The tricks' systems that there are, and the level of each."""
    levels = {}
    if before is not None:
        levels |= {HISS_BEFORE: before.hiss, FOLDING_HISS_BEFORE: before.folding_hiss}
    if here is not None:
        levels |= {HISS: here.hiss, FOLDING_HISS: here.folding_hiss}
    return levels


def is_measured(row: ClipRow, system: str, metric: str) -> bool:
    """Whether the row has the number, be it undefined."""
    return metric in row.get(system, {})


def value(row: ClipRow, system: str, metric: str) -> float | None:
    """A finite number, or None where it is undefined or was not measured."""
    number = row.get(system, {}).get(metric)
    return number if number is not None and math.isfinite(number) else None


def _tricks(
    row: ClipRow, before: FittedTricks | None, here: FittedTricks | None
) -> dict[str, Mapping[str, Any]]:
    found = {system: at_level(row, level) for system, level in trick_levels(before, here).items()}
    return {system: metrics for system, metrics in found.items() if metrics is not None}
