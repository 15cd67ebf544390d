"""The tree of configs/librilight.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, ClassVar, Literal

from ray_jobs.config import yaml_tree
from ray_jobs.config.former_keys import ORIGINAL_KEYS
from ray_jobs.config.workers import WorkersConfig
from ray_jobs.moshi.config import ChapterModelsConfig, InnerControlsConfig, StreamsConfig
from ray_jobs.moshi.synthetic import SyntheticDataConfig
from ttt import uris
from ttt.config import Config
from ttt.eval.config import ChapterConfig, LongContextConfig
from ttt.synthetic.chapters import SYNTHETIC


@dataclass(frozen=True, kw_only=True)
class ControlsConfig(InnerControlsConfig):
    """Controls: each one set adds a model to the run, but shuffle_frames, which changes all."""

    reset_every_frames: int | None = None
    """Also with TTT layers that forget after so many frames, again and again."""
    other_prefix_frames: int | None = None
    """Also each model after so many frames of another speaker, which are not scored."""
    shuffle_frames: int | None = None
    """Cut every chapter into stretches of so many frames and shuffle them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("reset_every_frames", "other_prefix_frames", "shuffle_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, or null for no such control")


@dataclass(frozen=True, kw_only=True)
class EvaluateChaptersConfig(Config):
    """Moshi with and without TTT over whole chapters."""

    __retired_keys__: ClassVar[Mapping[str, str]] = ORIGINAL_KEYS
    __free_on_resume__: ClassVar[tuple[str, ...]] = (
        "cluster", "summary", "min_coverage", "verify_spans", "state_every_frames", "codes_cache",
        "output",
    )  # fmt: skip

    output: str
    """Folder of the run: records, summary.json, plots, report.html; shared by all nodes."""
    model: ChapterModelsConfig = field(default_factory=ChapterModelsConfig)
    """The models."""
    data: ChapterConfig | None = None
    """Recorded chapters; null where synthetic is set."""
    synthetic: SyntheticDataConfig | None = None
    """Made chapters instead; null where data is set."""
    max_frames: int | None = None
    """Hear only so many frames (12.5 a second) of each chapter; null hears all of it."""
    codes_cache: str | None = None
    """Folder in which the codes of chapters are kept for other runs; null is output/codes."""
    streams: StreamsConfig = field(default_factory=StreamsConfig)
    """What the model hears and is told beside the chapter."""
    chunk: int = 64
    """Steps per forward pass; in bfloat16 part of what a result is. Halved when memory runs out."""
    group_size: int = 1
    """Chapters heard together in one batch; part of what a result is."""
    state_every_frames: int = 50_000
    """Frames between two saved states: the most that a killed worker loses."""
    controls: ControlsConfig = field(default_factory=ControlsConfig)
    """Controls."""
    verify_spans: int = 0
    """Random spans of each group heard again step by step, and if any, its first 4,096 frames."""
    summary: LongContextConfig = field(default_factory=LongContextConfig)
    """What is computed from the records."""
    preset: Literal["original"] | None = None
    """original: the original evaluation's faults, to show their effect; its losses are wrong."""
    seed: int = 0
    """Of the verified stretches and of shuffling."""
    min_coverage: float = 0.95
    """The job fails, after writing everything, when a model has a smaller share of the chapters."""
    cluster: WorkersConfig = field(default_factory=WorkersConfig)
    """Workers."""

    def __post_init__(self) -> None:
        self._check_preset()
        if (self.data is None) == (self.synthetic is None):
            raise ValueError("set exactly one of data (recordings) and synthetic; null the other")
        if self.synthetic is not None and self.streams.needs_silence:
            raise ValueError(
                "synthetic chapters have no codec that could say what silence is: set "
                "streams.other=masked and leave streams.text=silence_codes"
            )
        from_cache = self.data is not None and self.data.cache is not None
        made_by_none = self.model.mimi == SYNTHETIC and self.data is not None
        if made_by_none and (not from_cache or self.streams.needs_silence):
            raise ValueError(
                "model.mimi=synthetic says that no Mimi made the codes: set data.cache to a cache "
                "of such codes and streams.other=masked, and leave streams.text=silence_codes"
            )
        for name in ("chunk", "group_size", "state_every_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more")
        if self.max_frames is not None and self.max_frames < 1:
            raise ValueError("max_frames must be 1 or more, or null")
        if self.verify_spans < 0 or self.seed < 0:
            raise ValueError("verify_spans and seed must not be negative")
        if not 0 <= self.min_coverage <= 1:
            raise ValueError("min_coverage must lie between 0 and 1")
        for name in ("output", "codes_cache"):
            if not uris.is_local(getattr(self, name) or "."):
                raise ValueError(f"{name} must be a folder that all nodes see, not a URI")
        controls = self.controls
        if self.model.ttt is None and (controls.of_inner_loop or controls.reset_every_frames):
            raise ValueError(
                "controls.updates_off, controls.reset_every_frames and those of the inner loop "
                "need model.ttt: a base model learns nothing that could be switched off"
            )

    def _check_preset(self) -> None:
        """The preset has settings of its own; they are asked for, so that no output hides them."""
        if self.preset is None:
            return
        changes = [
            f"{key}={value if isinstance(value, str) else yaml_tree.show(value)}"
            for key, value in _ORIGINAL.items()
            if attrgetter(key)(self) != value
        ]
        if changes:
            raise ValueError(
                f"preset=original hears and scores as the original did: set {', '.join(changes)} "
                "(as configs/chapters_original.yaml does), or preset=null"
            )


_ORIGINAL: dict[str, Any] = {
    "streams.text": "own",
    "streams.other": "zero_id",
    "streams.voice": "moshi",
    "summary.weights": "uniform",
    "group_size": 1,
    "verify_spans": 0,
    "controls.updates_off": False,
    "controls.ascent": False,
    "controls.query_is_key": False,
    "controls.inner_steps": None,
    "controls.reset_every_frames": None,
    "controls.other_prefix_frames": None,
    "controls.shuffle_frames": None,
}
