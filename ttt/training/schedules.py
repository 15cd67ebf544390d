"""Learning rates as pure functions of the step: never stepped along, so a resumed run cannot drift.

The momentum stays fixed (torch's OneCycleLR with cycle_momentum=False).
"""

from __future__ import annotations

import math


def one_cycle(
    step: int,
    total_steps: int,
    *,
    peak: float,
    warmup_fraction: float,
    initial_div: float,
    final_div: float,
) -> float:
    """The rate of `step` (from 0): torch's OneCycleLR with cosine annealing, as a function.

    Raises ValueError outside 0 <= step < total_steps.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step {step} lies outside a schedule of {total_steps} steps")
    start, end = peak / initial_div, peak / initial_div / final_div
    last_rising, last = warmup_fraction * total_steps - 1, total_steps - 1
    if step <= last_rising:
        return _cosine(start, peak, step / last_rising if last_rising > 0 else 1.0)
    return _cosine(peak, end, (step - last_rising) / (last - last_rising))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
