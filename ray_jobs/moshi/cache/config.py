"""The tree of configs/cache_chapters.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ray_jobs.config.workers import WorkersConfig
from ray_jobs.moshi.synthetic import SyntheticDataConfig
from ttt import uris
from ttt.config import Config
from ttt.eval.config import ChapterConfig


@dataclass(frozen=True, kw_only=True)
class OwnTextConfig(Config):
    """The text that a base model chooses itself, heard from each chapter's beginning."""

    weights: str = "kyutai/moshiko-pytorch-bf16"
    """Moshi without TTT layers: a hub name, a folder in its layout, or tiny."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the weights."""
    lm_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of Moshi's model that replace those of its config.json, such as context."""
    other: Literal["silence", "masked", "zero_id", "audio"] = "silence"
    """What the other voice says meanwhile; as streams.other of evaluate_chapters."""
    voice: Literal["moshi", "user"] = "moshi"
    """Which voice the recording is; as streams.voice of evaluate_chapters."""
    chunk: int = 64
    """Steps per forward pass; in bfloat16 part of what the text is."""

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError("chunk must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class CacheChaptersConfig(Config):
    """From recorded or synthetic chapters to a cache of their codes, which training and evaluation
    read."""

    __free_on_resume__: ClassVar[tuple[str, ...]] = (
        "output", "mimi", "text.weights", "min_cached_share", "cluster",
    )  # fmt: skip
    """Models are known by what they are."""

    data: ChapterConfig | None = None
    """The recordings, as evaluate_chapters reads them; null where synthetic is set."""
    synthetic: SyntheticDataConfig | None = None
    """Made chapters instead; null where data is set."""
    output: str
    """The cache folder to write, a path or a URI (s3://..., gs://...)."""
    mimi: str | None = "kyutai/moshiko-pytorch-bf16"
    """Mimi, which makes the codes: a hub name, a folder, or tiny; null where synthetic is set."""
    text: OwnTextConfig | None = None
    """Also keeps the own text of a base model; null keeps codes alone."""
    chapters_per_shard: int = 32
    """Chapters per shard: the unit of work, and what a killed worker does again."""
    min_cached_share: float = 0.5
    """The job fails when less than this share of the chapters could be cached."""
    cluster: WorkersConfig = field(default_factory=WorkersConfig)
    """Workers; of a CPU each uses one thread, so that codes do not depend on how many it has."""

    def __post_init__(self) -> None:
        if (self.data is None) == (self.synthetic is None):
            raise ValueError("set exactly one of data (recordings) and synthetic; null the other")
        if (self.mimi is None) != (self.data is None):
            raise ValueError(
                "synthetic chapters are codes already, so that no Mimi is asked: set mimi=null"
                if self.data is None
                else "mimi is null: name the Mimi that is to make the codes of the recordings"
            )
        if self.data is not None and self.data.cache is not None:
            raise ValueError("data.cache has no effect: codes are made of audio; set data.root")
        if not 1 <= self.chapters_per_shard <= 10_000:
            raise ValueError(
                f"chapters_per_shard must be from 1 to 10,000, got {self.chapters_per_shard}"
            )
        if not 0 <= self.min_cached_share <= 1:
            raise ValueError(f"min_cached_share must be from 0 to 1, got {self.min_cached_share}")
        silent = self.text is not None and self.text.other == "silence"
        if silent and self.data is None:
            raise ValueError(
                "synthetic chapters have no codec that could say what silence is: set "
                "text.other=masked"
            )
        if silent and not uris.is_local(self.output):
            raise ValueError(
                "text.other=silence keeps the codes of silence beside the shards while it works: "
                "output must be a folder that all nodes see, or text.other another word"
            )
