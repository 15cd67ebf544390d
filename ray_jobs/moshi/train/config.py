"""The tree of configs/train_ttt*.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ray_jobs.moshi.config import BaseModelConfig
from ray_jobs.training.config import ClusterConfig, TrackingConfig
from ttt import uris
from ttt.config import Config
from ttt.moshi.training.config import MoshiTrainingConfig, SpansConfig
from ttt.training.config import CheckpointConfig


@dataclass(frozen=True, kw_only=True)
class TrainingChaptersConfig(Config):
    """Which chapters train and which validate."""

    cache: str
    """Cache written by ray_jobs.cache_chapters: a folder or URI that every node reads."""
    validation_share: float | None = 0.02
    """Share of the speakers held out by a hash of their names, at least one; null holds out none,
    and without validation_chapters there is no validation."""
    validation_chapters: tuple[str, ...] | None = None
    """Ids of the chapters to hold out in place of whole speakers, for a cache of one speaker;
    validation then says nothing of other voices."""
    limit_chapters: int | None = None
    """Train on the first so many chapters, for trials; null takes all."""

    def __post_init__(self) -> None:
        if self.validation_share is not None and not 0 < self.validation_share < 1:
            raise ValueError(
                f"validation_share must lie in (0, 1) or be null, got {self.validation_share}"
            )
        named = self.validation_chapters
        if named is not None and self.validation_share is not None:
            raise ValueError(
                "validation_share and validation_chapters both say what is held out: set "
                "validation_share=null to hold out the chapters that are named"
            )
        if named is not None and (not named or len(set(named)) < len(named)):
            raise ValueError(
                f"validation_chapters must name one or more, each once, got {list(named)}"
            )
        if self.limit_chapters is not None and self.limit_chapters < 1:
            raise ValueError(
                f"limit_chapters must be at least 1 or null, got {self.limit_chapters}"
            )


@dataclass(frozen=True, kw_only=True)
class ChapterValidationConfig(SpansConfig):
    """What is heard of held-out chapters while training; the spans never change during a run."""

    chunk: int = 64
    """Steps per pass, as in evaluate_chapters; in bfloat16 part of what a loss is."""
    every_steps: int | None = None
    """Validate after every so many steps besides each stage's end; null at stage ends only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")
        if self.every_steps is not None and self.every_steps < 1:
            raise ValueError(f"every_steps must be at least 1 or null, got {self.every_steps}")


@dataclass(frozen=True, kw_only=True)
class TrainTTTConfig(MoshiTrainingConfig):
    """Training of TTT layers, of LoRA or of both in a Moshi whose own weights never change."""

    # Base model and chapters are known by what they are, and memory changes no result.
    __free_on_resume__: ClassVar[tuple[str, ...]] = (
        "run", "cluster", "tracking", "checkpoint", "memory", "model.weights", "model.mimi",
        "data.cache", "start_from",
    )  # fmt: skip

    run: str
    """Folder (or URI) of this run, shared by all nodes: checkpoints, metrics.jsonl, export."""
    model: BaseModelConfig = field(default_factory=BaseModelConfig)
    """The base model."""
    start_from: str | None = None
    """A folder or URI with the export of another training in this base model, whose TTT layers and
    LoRA this one begins with; null draws them."""
    data: TrainingChaptersConfig
    """The chapters."""
    validation: ChapterValidationConfig = field(default_factory=ChapterValidationConfig)
    """What is heard of held-out chapters."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When the run is saved and what is kept."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """Workers."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Trackers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.model.mimi == "synthetic" and self.other == "silence":
            raise ValueError(
                "synthetic chapters have no codec that could say what silence is: set other=masked"
            )
        if self.tracking.tensorboard and not uris.is_local(self.run):
            raise ValueError(
                "tracking.tensorboard writes to a folder and run is a URI; set it to false"
            )
