"""The optimizer of each phase and its learning rate as a pure function of the step.

Phase 1 trains the head alone at a constant rate. Phase 2 starts a new AdamW over two named groups,
"head" and "body", under one OneCycle that spans the whole phase. Because the rate is computed from
the step and never stepped along, a resumed run cannot drift from its schedule.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ttt.training.config import OptimizerConfig
from ttt.training.schedules import one_cycle


@dataclass(frozen=True, kw_only=True)
class OptimConfig(OptimizerConfig):
    """AdamW, its schedule, clipping and the average of the weights."""

    head_only_lr: float = 5.0e-5
    """Learning rate of phase 1, constant."""
    peak_lr: float = 1.0e-4
    """Highest learning rate of phase 2."""
    body_lr_scale: float = 1.0
    """Factor on the learning rate of SNAC's own decoder in phase 2."""
    warmup_fraction: float = 0.3
    """Share of phase 2 in which the rate rises to its peak."""
    initial_div: float = 25.0
    """Phase 2 starts at peak_lr divided by this."""
    final_div: float = 1.0e4
    """Phase 2 ends at its starting rate divided by this."""
    rate_factors: dict[int, float] = field(default_factory=dict)
    """Factors on every learning rate, each from a step of the run on: {0: 0.5, 900: 0.4} halves the
    schedule and takes it to two fifths after step 900; none leaves it as it is."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay of the first and the second moment."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("head_only_lr", "peak_lr", "body_lr_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for step, factor in self.rate_factors.items():
            if step < 0 or factor <= 0:
                raise ValueError(
                    f"rate_factors take steps from 0 on to factors above 0, got {step}: {factor}"
                )


def learning_rates(
    config: OptimConfig, phase: int, phase_step: int, phase_steps: int, *, factor: float = 1.0
) -> dict[str, float]:
    """Group name -> learning rate of step `phase_step` (from 0) of a phase of `phase_steps`.

    `factor` multiplies them all: the run's `rate_factor` at that step.
    """
    if phase == 1:
        return {"head": factor * config.head_only_lr}
    rate = one_cycle(
        phase_step,
        phase_steps,
        peak=config.peak_lr,
        warmup_fraction=config.warmup_fraction,
        initial_div=config.initial_div,
        final_div=config.final_div,
    )
    rate *= factor
    return {"head": rate, "body": config.body_lr_scale * rate}


def rate_factor(config: OptimConfig, step: int) -> float:
    """The factor on the learning rates of a run's step (from 0): the newest one, or 1."""
    begun = [start for start in config.rate_factors if start <= step]
    return config.rate_factors[max(begun)] if begun else 1.0
