"""Which epochs train what, on how long segments, in how large steps.

Phase 1 (the first `head_only_epochs`) trains the new head alone, phase 2 everything. The segment
grows by stages while the clips per step shrink, so that memory stays level. A step is
`micro_batches_per_step` micro-batches whatever the number of workers is; they share them evenly.

`plan_epochs` turns the configuration into numbers: for each epoch its phase, its WindowShape, its
steps and the global step it starts at. Everything else (schedule, dry run, resume) reads those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ttt.config import Config
from ttt.errors import UserError
from ttt.snac.geometry import CodeGeometry, TokenRule
from ttt.snac.train.config import LossConfig
from ttt.snac.train.windows import WindowPlan, WindowShape, WindowsPerClip
from ttt.training.schedules import EpochPlan


@dataclass(frozen=True, kw_only=True)
class StageConfig(Config):
    """A run of epochs with one segment length."""

    first_epoch: int
    """First epoch of the stage, counted from 1."""
    last_epoch: int
    """Last epoch of the stage, included."""
    segment_seconds: float
    """Length of a training segment in seconds; rounded down to coarsest tokens."""
    clips_per_step: int
    """Segments in one optimizer step, over all workers; a multiple of micro_batches_per_step."""

    def __post_init__(self) -> None:
        if not 1 <= self.first_epoch <= self.last_epoch:
            raise ValueError(
                f"first_epoch {self.first_epoch} and last_epoch {self.last_epoch} must count from "
                f"1 and not fall"
            )
        if self.segment_seconds <= 0:
            raise ValueError(f"segment_seconds must be above 0, got {self.segment_seconds}")
        if self.clips_per_step < 1:
            raise ValueError(f"clips_per_step must be at least 1, got {self.clips_per_step}")


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig(Config):
    """Epochs, phases and segment lengths."""

    epochs: int = 15
    """Passes over the training clips."""
    windows_per_clip: WindowsPerClip = "length"
    """Windows of a clip in one pass: with length as many segments as fit into it, so that an epoch
    hears all audio once but the clips' ends; 1 takes one at random, however long the clip is."""
    head_only_epochs: int = 1
    """Epochs of phase 1, in which only the new head learns; 0 starts with phase 2."""
    stages: tuple[StageConfig, ...] = (
        StageConfig(first_epoch=1, last_epoch=3, segment_seconds=1.0, clips_per_step=64),
        StageConfig(first_epoch=4, last_epoch=6, segment_seconds=2.0, clips_per_step=32),
        StageConfig(first_epoch=7, last_epoch=9, segment_seconds=3.0, clips_per_step=24),
        StageConfig(first_epoch=10, last_epoch=15, segment_seconds=4.0, clips_per_step=16),
    )
    """Segment length and step size by epoch; together the stages cover every epoch once."""
    token_rule: TokenRule = "floor_total"
    """How seconds become tokens: floor_total rounds the segment, floor_per_second rounds one
    second and multiplies (the seed's table)."""
    token_geometry: Literal["codec", "seed"] = "codec"
    """Whose token length counts: the codec's own, or the 441-sample hop of the seed's table."""
    context_coarse: int = 2
    """Coarsest tokens decoded on both sides of a segment and left out of the loss."""
    micro_batches_per_step: int = 8
    """Micro-batches of one step; every allowed number of workers divides it."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}")
        if not 0 <= self.head_only_epochs <= self.epochs:
            raise ValueError(
                f"head_only_epochs must lie in 0..{self.epochs}, got {self.head_only_epochs}"
            )
        if self.context_coarse < 0:
            raise ValueError(f"context_coarse must not be negative, got {self.context_coarse}")
        if self.micro_batches_per_step < 1:
            raise ValueError(
                f"micro_batches_per_step must be at least 1, got {self.micro_batches_per_step}"
            )
        covered = [e for s in self.stages for e in range(s.first_epoch, s.last_epoch + 1)]
        if covered != list(range(1, self.epochs + 1)):
            raise ValueError(
                f"stages cover epochs {_ranges(self.stages)}; together they must cover 1 to "
                f"{self.epochs} once, in order"
            )
        for index, stage in enumerate(self.stages):
            if stage.clips_per_step % self.micro_batches_per_step:
                raise ValueError(
                    f"stages[{index}].clips_per_step {stage.clips_per_step} is not a multiple of "
                    f"micro_batches_per_step {self.micro_batches_per_step}"
                )

    def stage(self, epoch: int) -> StageConfig:
        """The stage of an epoch, counted from 1."""
        return next(s for s in self.stages if s.first_epoch <= epoch <= s.last_epoch)

    def phase(self, epoch: int) -> int:
        """1 while only the head learns, then 2."""
        return 1 if epoch <= self.head_only_epochs else 2

    def shape(self, epoch: int, geometry: CodeGeometry) -> WindowShape:
        """The windows of an epoch for a codec of `geometry`."""
        stage = self.stage(epoch)
        counted_in = geometry if self.token_geometry == "codec" else CodeGeometry.preset("seed")
        return WindowShape(
            core_coarse=counted_in.tokens(stage.segment_seconds, self.token_rule)[0],
            context_coarse=self.context_coarse,
            clips_per_micro_batch=stage.clips_per_step // self.micro_batches_per_step,
            micro_batches_per_step=self.micro_batches_per_step,
            windows_per_clip=self.windows_per_clip,
        )


def as_planned(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored training configuration with what it meant before it had all keys of today.

    Before `curriculum.windows_per_clip` there was one window of each clip in an epoch, before
    `validation.best_by` the loss decided, and before `loss.multi_mel_weight` and
    `loss.band_level_weight` there were no such terms.
    """
    new = LossConfig().to_dict()
    meant = {
        "curriculum": {"windows_per_clip": 1},
        "validation": {"best_by": "loss"},
        "loss": {name: new[name] for name in new if name.startswith(("multi_mel", "band_level"))},
    }
    known = {name: keys for name, keys in meant.items() if isinstance(stored.get(name), Mapping)}
    return {**stored, **{name: {**keys, **stored[name]} for name, keys in known.items()}}


@dataclass(frozen=True)
class Epoch(EpochPlan):
    """One epoch in numbers; phase 1 trains the head, phase 2 everything."""

    segment_seconds: float
    """As configured; the exact length is the shape's core."""
    shape: WindowShape


def plan_epochs(config: CurriculumConfig, windows: WindowPlan) -> tuple[Epoch, ...]:
    """The whole run in numbers. Raises UserError when an epoch has fewer windows than one step."""
    for index, stage in enumerate(config.stages):
        shape = config.shape(stage.first_epoch, windows.geometry)
        if windows.count(shape) < shape.clips_per_step:
            counted = windows.count_in_words(shape, "training clips")
            raise UserError(
                f"{counted} are fewer than the {shape.clips_per_step} of one step: lower "
                f"curriculum.stages[{index}].clips_per_step or cache more clips"
            )
    shapes = [config.shape(number, windows.geometry) for number in range(1, config.epochs + 1)]
    steps = [windows.steps(shape) for shape in shapes]
    phases = [config.phase(number) for number in range(1, config.epochs + 1)]
    epochs: list[Epoch] = []
    for index, (shape, phase) in enumerate(zip(shapes, phases, strict=True)):
        epochs.append(
            Epoch(
                number=index + 1,
                phase=phase,
                segment_seconds=config.stage(index + 1).segment_seconds,
                shape=shape,
                steps=steps[index],
                first_step=sum(steps[:index]),
                phase_first_step=sum(steps[: phases.index(phase)]),
                phase_steps=sum(s for s, p in zip(steps, phases, strict=True) if p == phase),
            )
        )
    return tuple(epochs)


def require_even_shares(config: CurriculumConfig, num_workers: int) -> None:
    """Raises UserError unless every worker gets the same number of micro-batches of a step."""
    if config.micro_batches_per_step % num_workers:
        raise UserError(
            f"cluster.num_workers {num_workers} does not divide curriculum.micro_batches_per_step "
            f"{config.micro_batches_per_step}, as every number of workers from "
            f"cluster.min_workers on must; choose a divisor, or change micro_batches_per_step (and "
            f"start a new run)"
        )


def _ranges(stages: tuple[StageConfig, ...]) -> str:
    return ", ".join(f"{stage.first_epoch}-{stage.last_epoch}" for stage in stages) or "none"
