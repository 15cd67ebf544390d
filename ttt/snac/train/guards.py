"""Whether a validation may count as better: what must not get worse while the new octave improves.

LSD-HF alone is won by hiss, so it decides only among validations whose guards all hold: below
12 kHz and in the waveform no worse than resampling, and above it following the truth at least as
well as the cheap tricks do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ttt.snac.verdict import BASELINE, OURS
from ttt.training.trainee import Row, ValidationResult

TRICKS = "tricks"
"""The reference row of the cheap tricks at their strongest on the validation windows."""
MOST_LSD_LF, MOST_L1 = 1.02, 1.01
"""Times resampling's."""
MOST_SI_SDR_LOST = 0.5
"""dB below resampling's."""


def failing(rows: Mapping[str, Row]) -> list[str]:
    """The guards that do not hold, by the metric's name; a value that is no number holds none."""

    def of(row: str, metric: str) -> float:
        return rows.get(row, {}).get(metric, math.nan)

    holds = {
        "lsd_lf": of(OURS, "lsd_lf") <= MOST_LSD_LF * of(BASELINE, "lsd_lf"),
        "l1": of(OURS, "l1") <= MOST_L1 * of(BASELINE, "l1"),
        "si_sdr": of(OURS, "si_sdr") >= of(BASELINE, "si_sdr") - MOST_SI_SDR_LOST,
        # Without a trick's value nothing moves in the truth's octave.
        "env_r": of(OURS, "env_r") >= of(TRICKS, "env_r") or math.isnan(of(TRICKS, "env_r")),
    }
    return [metric for metric, held in holds.items() if not held]


def guarded_value(result: ValidationResult) -> float:
    """What the lowest of is the best: LSD-HF where all guards hold, else 1000 + the loss.

    So any validation whose guards hold is better than all others.
    """
    lsd_hf = result.rows.get(OURS, {}).get("lsd_hf", math.nan)
    if not failing(result.rows) and math.isfinite(lsd_hf):
        return lsd_hf
    return _WITHOUT_GUARDS + result.loss


def held(value: float) -> bool:
    """Whether all guards held at a validation of this `guarded_value`."""
    return value < _WITHOUT_GUARDS


_WITHOUT_GUARDS = 1000.0
"""Above any LSD-HF."""
