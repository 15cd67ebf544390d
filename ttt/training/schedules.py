"""What a step knows of the whole run: its epoch in numbers, and rates as functions of the step.

Rates are computed and never stepped along, so a resumed run cannot drift from its schedule.

The momentum stays fixed (torch's OneCycleLR with cycle_momentum=False).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochPlan:
    """One epoch in numbers."""

    number: int
    """From 1."""
    phase: int
    """From 1; an epoch of a new phase begins with that phase's updates."""
    steps: int
    """Steps of the epoch."""
    first_step: int
    """Steps of the whole run before it."""
    phase_first_step: int
    """Steps of the whole run before its phase."""
    phase_steps: int
    """Steps of its whole phase."""


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


def warm_cosine(
    step: int,
    total_steps: int,
    *,
    peak: float,
    warmup_fraction: float,
    initial_div: float,
    final_div: float,
) -> float:
    """The rate of `step` (from 0) where it rises in a straight line; otherwise `one_cycle`.

    Raises ValueError outside 0 <= step < total_steps.
    """
    last_rising = warmup_fraction * total_steps - 1
    if 0 <= step <= last_rising and last_rising > 0:
        start = peak / initial_div
        return start + (peak - start) * step / last_rising
    return one_cycle(
        step,
        total_steps,
        peak=peak,
        warmup_fraction=warmup_fraction,
        initial_div=initial_div,
        final_div=final_div,
    )


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
