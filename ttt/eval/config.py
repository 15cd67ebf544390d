"""What an evaluation of Moshi is told: which chapters, and how records are summarised.

Nothing here needs a model or a record: reading a configuration must not cost their import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ttt.codebook_weights import CodebookWeights
from ttt.config import Config

FRAME_RATE = 12.5
"""Frames of codes per second: Mimi's, and so Moshi's."""
BEGINNING_FRAMES = 4096
"""Frames that a verified chapter is stepped from its first one on; beyond the 3,000 that the
published models attend to."""

ScoreName = Literal[
    "weighted_mean",
    "semantic_mean",
    "acoustic_mean",
    "weighted_sum",
    "semantic_sum",
    "acoustic_sum",
    "ending_weighted_mean",
]


@dataclass(frozen=True, kw_only=True)
class ChapterConfig(Config):
    """Which chapters to evaluate."""

    root: str | tuple[str, ...] | None = None
    """Where the recordings are: a folder, or a manifest that names files (JSON lines with
    audio_filepath or path, or bare paths, relative to it). A list names several, and chapters' ids
    then begin with the name of each."""
    cache: str | None = None
    """Cache written by ray_jobs.cache_chapters, whose codes are then heard in place of the audio
    below root, which is not looked at; null encodes audio."""
    layout: Literal["auto", "chapters", "cut", "librispeech", "flat"] = "auto"
    """How the folder is laid out; auto looks at the names."""
    pauses: Literal["keep", "cut"] = "keep"
    """Whether to keep the pauses or to take only what the .json calls voice activity."""
    concatenate_seconds: float | None = None
    """Join chapters of a book until they last this long; null leaves chapters alone."""
    speakers: tuple[str, ...] = ()
    """Only these speakers; empty takes all."""
    books: tuple[str, ...] = ()
    """Only these books (names of their folders); empty takes all."""
    min_seconds: float = 0.0
    """Leave out what is shorter, after joining."""
    max_chapters: int | None = None
    """At most this many, speakers taking turns; null takes all."""

    def __post_init__(self) -> None:
        if not self.root and self.cache is None:
            raise ValueError("root must name a folder or manifest of recordings, or a list of them")
        cached = {"layout": "auto", "pauses": "keep", "concatenate_seconds": None}
        for name, as_cached in cached.items():
            if self.cache is not None and getattr(self, name) != as_cached:
                raise ValueError(
                    f"{name} has no effect on a cache, whose chapters are as they were cached: set "
                    f"it to {as_cached or 'null'}"
                )
        if self.concatenate_seconds is not None and self.concatenate_seconds <= 0:
            raise ValueError("concatenate_seconds must be above 0; null leaves chapters alone")
        if self.min_seconds < 0:
            raise ValueError("min_seconds must be 0 or more")
        if self.max_chapters is not None and self.max_chapters < 1:
            raise ValueError("max_chapters must be 1 or more; null takes all")
        if self.pauses == "cut" and self.layout in ("cut", "librispeech"):
            raise ValueError(f"pauses: cut needs the .json files, which layout {self.layout} lacks")

    @property
    def roots(self) -> tuple[str, ...]:
        """The places that `root` names."""
        return (self.root,) if isinstance(self.root, str) else self.root or ()


@dataclass(frozen=True, kw_only=True)
class LongContextConfig(Config):
    """What is computed from the records; changing it needs no model, only `rescore`."""

    weights: CodebookWeights = "moshi"
    """The loss that headlines: moshi (100:1 for the semantic codebook) or uniform (mean of 8)."""
    positions: tuple[int, ...] = (1000, 2000, 4000, 8000, 16000, 24000)
    """Frames at which the loss is reported."""
    window_frames: int = 1000
    """The loss at a position is the mean over this many frames around it."""
    bins_per_octave: int = 4
    """Points of the curve between a position and its double."""
    min_slope_frames: int = 500
    """Frames beyond the model's window that a chapter needs to have a slope."""
    startup_frames: int = 0
    """Frames of a chapter's beginning that are known to be start-up; slopes begin behind them."""
    slope_period_frames: int = 1
    """Slopes are fitted to means over so many frames: the period of a made language, else 1."""
    equivalence_margin: float | None = None
    """Nats between two models that would not matter; set it before the run. None: not tested."""
    resamples: int = 2000
    """Bootstrap resamples of every interval."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if not self.positions or min(self.positions) < self.window_frames / 2:
            raise ValueError(
                "positions must be at least half of window_frames; lower window_frames or leave "
                "out the smallest"
            )
        if self.window_frames < 2 or self.window_frames % 2:
            raise ValueError("window_frames must be an even number above 0")
        if self.bins_per_octave < 1 or self.resamples < 1:
            raise ValueError("bins_per_octave and resamples must be 1 or more")
        if self.min_slope_frames < 3:
            raise ValueError("min_slope_frames must be 3 or more: a line needs points")
        if self.slope_period_frames < 1:
            raise ValueError("slope_period_frames must be 1 or more")
        if self.startup_frames < 0:
            raise ValueError("startup_frames must not be negative")
        if self.equivalence_margin is not None and not self.equivalence_margin > 0:
            raise ValueError("equivalence_margin must be above 0, or null")

    def settled_from(self, context: int) -> int:
        """The first frame behind the model's window and what is known to be start-up."""
        return max(context, self.startup_frames)


@dataclass(frozen=True, kw_only=True)
class PairSummaryConfig(Config):
    """How the records of a run over pairs are summarised."""

    score: ScoreName = "weighted_mean"
    """Which likelihood headlines, see ttt.eval.pairs.scores; all of them are reported."""
    resamples: int = 2000
    """Bootstrap resamples of every interval of a margin; accuracies have theirs without."""
    seed: int = 0
    """Of the resampling."""

    def __post_init__(self) -> None:
        if self.resamples < 1 or self.seed < 0:
            raise ValueError("resamples must be 1 or more, and seed must not be negative")


@dataclass(frozen=True, kw_only=True)
class StreamSetting:
    """What filled the streams beside the recording; in the words of ttt.moshi.streaming.streams."""

    name: str
    text: str
    other: str
    voice: str

    @property
    def streams(self) -> dict[str, str]:
        """As `ttt.moshi.streaming.streams.Streams` takes them."""
        return {"text_stream": self.text, "other_stream": self.other, "stream": self.voice}
