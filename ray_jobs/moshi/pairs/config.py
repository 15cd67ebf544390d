"""The tree of configs/paper_metrics.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from ray_jobs.config.former_keys import ORIGINAL_KEYS, Alias
from ray_jobs.config.workers import WorkersConfig
from ray_jobs.moshi.config import ChapterModelsConfig, InnerControlsConfig, StreamsConfig
from ttt import uris
from ttt.config import Config
from ttt.eval.config import PairSummaryConfig, StreamSetting
from ttt.eval.pairs.find import TASKS


@dataclass(frozen=True, kw_only=True)
class PairTaskConfig(Config):
    """One benchmark."""

    root: str
    """Folder of its recordings, in the published layout."""
    gold: str | None = None
    """Its gold table, where that does not lie at its published place in root."""
    max_pairs: int | None = None
    """At most so many pairs, drawn from every stratum in proportion; null takes all."""

    def __post_init__(self) -> None:
        if self.max_pairs is not None and self.max_pairs < 1:
            raise ValueError("max_pairs must be 1 or more, or null")


@dataclass(frozen=True, kw_only=True)
class PairStreamsConfig(StreamsConfig):
    """What fills Moshi's streams beside the recording; see ttt.moshi.streaming.streams."""

    text: Literal["own", "pad", "masked", "silence_codes"] = "masked"
    """Text: masked (none), pad, own (the model's argmax), or silence_codes (an old confusion)."""

    def named(self, name: str) -> StreamSetting:
        """These streams under the name that a run calls them by."""
        return StreamSetting(name=name, text=self.text, other=self.other, voice=self.voice)


PRESETS = {
    "paper": PairStreamsConfig(),
    "seed": PairStreamsConfig(text="silence_codes", other="masked"),
    "original": PairStreamsConfig(other="masked"),
}
"""Streams by name: what we hold to be right; silence codes as text; the original evaluation."""


@dataclass(frozen=True)
class StreamAlias(Alias):
    """An old key of one stream: beside use_silence_codes the others are those of preset seed."""

    def put(self, tree: dict[str, Any], value: Any) -> str | None:
        """Set the stream; where it differs from preset seed, all streams in place of the preset."""
        *above, _, stream = self.key.split(".")
        run: Any = tree
        for part in above:
            run = run.get(part) if isinstance(run, dict) else None
        if not isinstance(run, dict) or run.get("preset") != "seed" or run.get("streams"):
            return super().put(tree, value)
        seed = asdict(PRESETS["seed"])
        if seed[stream] != value:
            run |= {"preset": "paper", "streams": {**seed, stream: value}}
        return None


ALIASES = {
    **{
        f"{task}_{old}": Alias(f"tasks.{task}.{new}")
        for task in ("sblimp", "swuggy", "tstory", "sstory")
        for old, new in (("audio_dir", "root"), ("max_pairs", "max_pairs"))
    },
    **{f"{task}_gold_csv": Alias(f"tasks.{task}.gold") for task in ("sblimp", "swuggy")},
    "use_silence_codes": Alias("preset", {True: "seed", False: None}),
    "paper_metrics_use_silence": StreamAlias("streams.other", {True: "silence", False: "masked"}),
    "paper_metrics_use_user_stream": StreamAlias("streams.voice", {True: "user", False: None}),
}
"""Keys of the original evaluation that are taken, with or without `paper_metrics.` before them."""


@dataclass(frozen=True, kw_only=True)
class EvaluatePairsConfig(Config):
    """Moshi with and without TTT on benchmarks made of pairs."""

    __aliases__: ClassVar[Mapping[str, Alias]] = ALIASES
    __retired_keys__: ClassVar[Mapping[str, str]] = {
        key: f"belongs to evaluate_chapters; there {sentence}"
        for key, sentence in ORIGINAL_KEYS.items()
        if key not in ALIASES
    }
    __free_on_resume__: ClassVar[tuple[str, ...]] = (
        "cluster", "summary", "min_coverage", "silence_seconds", "codes_cache", "output",
    )  # fmt: skip

    output: str
    """Folder of the run: items, summary.json, plots, report.html; shared by all nodes."""
    model: ChapterModelsConfig = field(default_factory=ChapterModelsConfig)
    """The models."""
    tasks: dict[str, PairTaskConfig | None] = field(default_factory=dict)
    """Name of a task -> where it lies; null leaves one of the base file out."""
    preset: Literal["paper", "seed", "original"] = "paper"
    """Streams by name: paper (text masked, other voice silence), seed, or original."""
    streams: PairStreamsConfig | None = None
    """Other streams than the preset's; null takes the preset's."""
    against: dict[str, PairStreamsConfig] = field(default_factory=dict)
    """Name -> further streams that every model is scored with, compared pair by pair."""
    controls: InnerControlsConfig = field(default_factory=InnerControlsConfig)
    """Controls of how TTT layers learn, compared pair by pair with the layers as they are."""
    codes_cache: str | None = None
    """Folder in which the codes of recordings are kept for other runs; null is output/codes."""
    chunk: int = 64
    """Steps per forward pass; in bfloat16 part of what a result is, as the batch is."""
    batch_items: int = 32
    """The most recordings heard together."""
    batch_frames: int = 4096
    """The most frames (12.5 a second) heard together, filling included."""
    pairs_per_shard: int = 64
    """Pairs of one part file: the unit that is dispatched, and the most that a kill costs."""
    seed: int = 0
    """Of the draw of max_pairs."""
    min_coverage: float = 0.99
    """The job fails, after writing everything, when a task has a smaller share of its pairs."""
    silence_seconds: float | None = None
    """Put so much of what the codes of silence sound like into the report; null leaves it out."""
    summary: PairSummaryConfig = field(default_factory=PairSummaryConfig)
    """What is computed from the records."""
    cluster: WorkersConfig = field(default_factory=WorkersConfig)
    """Workers."""

    @property
    def settings(self) -> tuple[StreamSetting, ...]:
        """All streams by name, first those that the others are compared with."""
        first = PRESETS[self.preset].named(self.preset)
        if self.streams is not None:
            first = self.streams.named("streams")
        return (first, *(streams.named(name) for name, streams in self.against.items()))

    @property
    def needs_silence(self) -> bool:
        """Whether Mimi has to say what silence is."""
        return any(
            setting.other == "silence" or setting.text == "silence_codes"
            for setting in self.settings
        )

    def __post_init__(self) -> None:
        if unknown := [name for name in self.tasks if name not in TASKS]:
            raise ValueError(f"tasks has no {', '.join(unknown)}; there are {', '.join(TASKS)}")
        if not any(self.tasks.values()):
            raise ValueError("tasks names no benchmark; set tasks.swuggy.root or another's")
        if self.streams is not None and self.preset != "paper":
            old = " (use_silence_codes: true is preset seed)" if self.preset == "seed" else ""
            raise ValueError(
                f"preset {self.preset} sets the streams{old}: null streams, or the preset"
            )
        names = [setting.name for setting in self.settings]
        for name in self.against:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or names.count(name) > 1:
                raise ValueError(
                    f"against.{name}: another name of letters, digits, - and _ is needed than "
                    f"{names[0]}"
                )
        if self.model.ttt is None and self.controls.of_inner_loop:
            raise ValueError(
                f"controls.{self.controls.of_inner_loop[0]} needs model.ttt: a base model has no "
                "inner loop"
            )
        for name in ("chunk", "batch_items", "batch_frames", "pairs_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more")
        if self.seed < 0:
            raise ValueError("seed must not be negative")
        if not 0 <= self.min_coverage <= 1:
            raise ValueError("min_coverage must lie between 0 and 1")
        if self.silence_seconds is not None and not 0 < self.silence_seconds <= 60:
            raise ValueError("silence_seconds must be above 0 and at most 60, or null")
        if not uris.is_local(self.output):
            raise ValueError("output must be a folder that all nodes see, not a URI")
