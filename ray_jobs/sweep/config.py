"""The configuration of a sweep: a training configuration and what varies in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ray_jobs.decoder.train_config import TrainConfig
from ttt.config import Config

RATE_FACTOR = "optim.rate_factors.0"
"""The one key that population based training varies: the factor on the whole schedule."""


@dataclass(frozen=True, kw_only=True)
class Distribution(Config):
    """What a key may become; exactly one of the three is given."""

    uniform: tuple[float, float] | None = None
    """Any number between two, all equally likely."""
    loguniform: tuple[float, float] | None = None
    """Any number between two above 0, every factor equally likely."""
    choice: tuple[Any, ...] | None = None
    """One of these values; a value may be a list or a group of keys."""

    def __post_init__(self) -> None:
        given = [name for name in ("uniform", "loguniform", "choice") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of uniform, loguniform and choice, got {len(given)}"
            )
        ends = self.uniform or self.loguniform
        if ends is not None and not ends[0] < ends[1]:
            raise ValueError(f"{given[0]} must rise, got {list(ends)}")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform must lie above 0, got {list(self.loguniform)}")

    def edges(self) -> tuple[Any, ...]:
        """Every choice, or both ends of the interval."""
        return self.choice or self.uniform or self.loguniform or ()

    def at(self, share: float) -> Any:
        """The value at `share` in [0, 1) of the way, so that a uniform share draws from it."""
        if self.choice is not None:
            return self.choice[int(share * len(self.choice))]
        low, high = self.edges()
        if self.loguniform is not None:
            return min(max(low * math.exp(share * math.log(high / low)), low), high)
        return low + share * (high - low)


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Config):
    """Which values are tried."""

    kind: Literal["random", "grid", "tpe"] = "random"
    """random draws; grid takes every combination of choices; tpe (Optuna) learns from the trials
    that have ended."""
    trials: int | None = 20
    """How many trials vary; trial 0, the configuration as it stands, is trained besides, so that 20
    make 21 trainings. null with grid."""
    seed: int = 0
    """Of the draws; the trainings take the configuration's own seed."""

    def __post_init__(self) -> None:
        if self.kind == "grid" and self.trials is not None:
            raise ValueError("a grid has as many trials as combinations; set trials to null")
        if self.kind != "grid" and (self.trials is None or self.trials < 1):
            raise ValueError(f"trials must be at least 1, got {self.trials}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig(Config):
    """Which trials are stopped early; trial 0 never is, since all are compared with it."""

    kind: Literal["none", "asha", "median", "pbt"] = "asha"
    """asha stops a trial that is not among the best at an epoch of its ladder; median one whose
    best loss is worse than the median of the others' means; pbt stops none, but lets the worst go
    on from a checkpoint of the best with another rate factor."""
    grace_epochs: int = 1
    """No trial is judged before so many epochs."""
    reduction_factor: float = 3.0
    """asha: one in so many trials passes a rung, and rungs lie so many times further apart."""
    perturb_every_epochs: int = 1
    """pbt: how often trials are compared."""

    def __post_init__(self) -> None:
        for name in ("grace_epochs", "perturb_every_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.reduction_factor <= 1:
            raise ValueError(f"reduction_factor must be above 1, got {self.reduction_factor}")


@dataclass(frozen=True, kw_only=True)
class StopConfig(Config):
    """When the whole sweep ends before its last trial; --resume goes on with a larger limit."""

    hours: float | None = None
    """After so many hours of this start of the command; null sets no limit."""
    steps: int | None = None
    """After so many optimizer steps of all trials together; null sets no limit."""

    def __post_init__(self) -> None:
        if self.hours is not None and self.hours <= 0:
            raise ValueError(f"hours must be above 0 or null, got {self.hours}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1 or null, got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class TuneConfig(TrainConfig):
    """A sweep over trainings of the 48 kHz decoder: a training configuration with a space."""

    __free_on_resume__: ClassVar[tuple[str, ...]] = (
        "run", "cluster", "tracking", "stop", "concurrent_trials", "search.trials",
    )  # fmt: skip

    run: str
    """Folder (or URI) of the sweep, shared by all nodes: trials, best.yaml, report, export."""
    space: dict[str, Distribution]
    """Keys of the training configuration, dotted, and what each may become."""
    search: SearchConfig = field(default_factory=SearchConfig)
    """Which values are tried."""
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    """Which trials are stopped early."""
    stop: StopConfig = field(default_factory=StopConfig)
    """When the sweep ends early."""
    concurrent_trials: int | None = None
    """Trials at once; null takes as many as the cluster holds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = [*self._problems()]
        if problems:
            raise ValueError("; ".join(problems))

    def _problems(self) -> list[str]:
        problems = []
        if not self.space:
            problems.append("space is empty; name at least one key")
        if self.cluster.num_workers < 1:
            problems.append("a trial needs cluster.num_workers of at least 1")
        if self.data.validation is None and self.data.validation_share is None:
            problems.append("trials are compared by validation; set data.validation_share")
        if self.concurrent_trials is not None and self.concurrent_trials < 1:
            problems.append(
                f"concurrent_trials must be at least 1 or null, got {self.concurrent_trials}"
            )
        if self.noise_floor is not None and self.noise_floor.folds:
            problems.append(
                "noise_floor.folds would train every trial as often again; set it to 0 here and "
                "train best.yaml with folds"
            )
        if self.search.kind == "grid":
            problems += [
                f"space.{key}: a grid needs choice, not an interval"
                for key, values in self.space.items()
                if values.choice is None
            ]
        if self.scheduler.kind == "pbt":
            problems += self._pbt_problems()
        return problems

    def _pbt_problems(self) -> list[str]:
        problems = [
            f"space.{key}: changes the plan of the checkpoints that pbt hands from trial to trial; "
            f"only {RATE_FACTOR} can vary"
            for key in self.space
            if key != RATE_FACTOR
        ]
        if self.search.kind != "random":
            problems.append(f"pbt draws its own values; search.kind {self.search.kind} cannot")
        if self.search.trials is not None and self.search.trials < 2:
            problems.append("pbt needs search.trials of at least 2")
        if self.cluster.num_workers > 1:
            problems.append("pbt needs trials of one worker; set cluster.num_workers to 1")
        if self.optim.rate_factors:
            problems.append("pbt sets optim.rate_factors itself; remove them")
        return problems
