"""The configuration of a training run: the tree of configs/train_*.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ray_jobs.config.former_keys import Alias
from ray_jobs.config.workers import FORMER_KEYS
from ray_jobs.training.config import ClusterConfig, TrackingConfig
from ttt import uris
from ttt.config import Config
from ttt.snac.config import Init, NoiseFloorConfig, fold_number
from ttt.snac.train.config import AdversarialConfig, BestBy, LossConfig, Precision
from ttt.snac.train.curriculum import CurriculumConfig
from ttt.snac.train.optim import OptimConfig
from ttt.training.config import CheckpointConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which clips train and which validate."""

    train: str
    """Cache written by ray_jobs.cache_codes: a folder or URI that every node reads."""
    validation: str | None = None
    """Another cache to validate on; null holds clips of the training cache out."""
    validation_share: float | None = 0.02
    """Share of the training cache's clips held out by a hash of their id; null with `validation`,
    or to train without validation."""
    limit_clips: int | None = None
    """Train on the first so many clips, for trials; null takes all."""
    without_fold: str | None = None
    """2/5 leaves the second of five folds of the training clips out; null leaves none out. It is
    what noise_floor.folds sets in the trainings it adds."""

    def __post_init__(self) -> None:
        if self.validation is not None and self.validation_share is not None:
            raise ValueError(
                "validation and validation_share are both set; set one of them to null"
            )
        if self.validation_share is not None and not 0 < self.validation_share < 1:
            raise ValueError(
                f"validation_share must lie in (0, 1) or be null, got {self.validation_share}"
            )
        if self.limit_clips is not None and self.limit_clips < 1:
            raise ValueError(f"limit_clips must be at least 1 or null, got {self.limit_clips}")
        if self.without_fold is not None:
            fold_number(self.without_fold)


@dataclass(frozen=True, kw_only=True)
class ValidationConfig(Config):
    """What is measured while training; the windows never change during a run."""

    segment_seconds: float = 2.0
    """Length of a validation window, whatever the epoch trains on."""
    max_windows: int = 256
    """At most so many windows, spread evenly over the validation clips."""
    clips_per_batch: int = 8
    """Windows decoded at once."""
    every_steps: int | None = None
    """Validate after every so many steps besides each epoch's end; null at epoch ends only."""
    examples: int = 4
    """Windows whose audio and spectrograms go to the trackers."""
    best_by: BestBy = "loss"
    """What the best checkpoint has: with loss the lowest; with guarded the lowest LSD-HF of those
    that are not worse than resampling in LSD-LF, L1 and SI-SDR nor than the tricks in env-r."""

    def __post_init__(self) -> None:
        for name in ("segment_seconds", "max_windows", "clips_per_batch"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.every_steps is not None and self.every_steps < 1:
            raise ValueError(f"every_steps must be at least 1 or null, got {self.every_steps}")
        if self.examples < 0:
            raise ValueError(f"examples must not be negative, got {self.examples}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """Training of a 48 kHz decoder on cached codes."""

    __aliases__: ClassVar[Mapping[str, Alias]] = FORMER_KEYS
    # Codec, clips and what weights begin with are known by their digests.
    __free_on_resume__: ClassVar[tuple[str, ...]] = (
        "run", "cluster", "tracking", "checkpoint", "codec", "data.train", "data.validation",
        "init_from", "adversarial.start_from", "noise_floor",
    )  # fmt: skip

    run: str
    """Folder (or URI) of this run, shared by all nodes: checkpoints, metrics.jsonl, export."""
    codec: str
    """The codec whose codes the cache holds: a hub name, a folder in its layout, or tiny."""
    init: Init = "interp"
    """How the new 2x head starts; interp starts as the resampled 24 kHz output, exactly."""
    init_from: str | None = None
    """A folder or URI with the export of another training of this codec, whose weights this one
    begins with; null begins with the codec's own decoder and a new head."""
    data: DataConfig
    """The clips."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """Epochs, phases and segment lengths."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What is minimised."""
    adversarial: AdversarialConfig | None = None
    """Discriminators that teach the decoder besides; null trains without."""
    noise_floor: NoiseFloorConfig | None = None
    """Noise above 12.3 kHz that is fitted after training and exported with the decoder; null
    fits none. A run that has ended takes it with --resume."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """How it is minimised."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """What is measured on held-out clips."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When the run is saved and what is kept."""
    precision: Precision = "float32"
    """bf16 runs the convolutions in bfloat16; losses stay in float32."""
    seed: int = 0
    """Of the head's weights, the windows and the decoder's noise."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """Workers."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Trackers."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        validates = self.data.validation is not None or self.data.validation_share is not None
        if self.validation.best_by == "guarded" and not validates:
            raise ValueError(
                "validation.best_by is guarded and there is no validation; set data.validation, "
                "data.validation_share or best_by to loss"
            )
        if self.noise_floor is not None and self.noise_floor.folds == 0 and not validates:
            raise ValueError(
                "noise_floor.folds is 0 and there is no validation to fit on; set "
                "data.validation_share, data.validation or noise_floor.folds"
            )
        if self.tracking.tensorboard and not uris.is_local(self.run):
            raise ValueError(
                "tracking.tensorboard writes to a folder and run is a URI; set it to false"
            )
