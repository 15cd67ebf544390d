"""The trees of configs/evaluate_decoder.yaml and configs/decode.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ray_jobs.config.former_keys import Alias
from ray_jobs.config.workers import FORMER_KEYS, WorkersConfig
from ttt import uris
from ttt.config import Config
from ttt.snac.cache.inputs import QualityConfig
from ttt.snac.cache.speakers import folder_number
from ttt.snac.config import ORPHEUS_BASE, ORPHEUS_ORDER, CodeLayout

MOST_DECODERS = 26
"""As many as there are letters to call them by."""


@dataclass(frozen=True, kw_only=True)
class EvaluationDataConfig(Config):
    """Which clips are measured; all null takes the clips that the training run held out."""

    audio: str | None = None
    """Folder of recordings of at least 44.1 kHz, any depth; encoded here by the codec."""
    cache: str | None = None
    """Cache written by ray_jobs.cache_codes, folder or URI; every clip of it counts."""
    speaker: str | None = None
    """With audio: folder:N takes each clip's N-th folder below it (from 1) as its speaker; a cache
    knows its own speakers."""
    limit: int | None = None
    """Measure the first so many clips, for trials; null takes all."""

    def __post_init__(self) -> None:
        if self.audio is not None and self.cache is not None:
            raise ValueError("audio and cache are both set; set one of them to null")
        if self.speaker is not None:
            folder_number(self.speaker)
            if self.audio is None:
                raise ValueError(
                    "speaker has no effect without audio; a cache knows its own, written with "
                    "input.speaker"
                )
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1 or null, got {self.limit}")


@dataclass(frozen=True, kw_only=True)
class BootstrapConfig(Config):
    """How intervals are drawn; speakers are resampled where they are known, else clips."""

    resamples: int = 2000
    """Draws per interval."""
    seed: int = 0
    """Of the draws; the same seed gives the same intervals."""

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise ValueError(f"resamples must be at least 100, got {self.resamples}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Config):
    """What report.html shows besides the tables."""

    examples: int = 3
    """Clips to see and hear, by rank from the best to the worst; 0 for none."""
    example_seconds: float = 5.0
    """Length of the passage, from the middle of the clip; 5 s of five players take about 2.5 MB."""
    write_card: bool = True
    """Put the numbers into the README.md of the export that was measured, from where
    ray_jobs.push_decoder takes them to the hub; an export that was measured without its noise floor
    keeps the one it has, and nothing is written for one that came from the hub."""
    visqol: bool | Literal["auto"] = "auto"
    """Report ViSQOL, a predicted opinion, beside the verdict; auto does where it is installed (make
    setup METRICS=1)."""
    visqol_clips: int = 20
    """ViSQOL of at most so many clips, evenly spread, of each the middle 5 s; a second of audio
    takes about a second of a CPU for every row of the table."""

    listening_clips: int = 16
    """Of two decoders: clips of listening.html, a blind comparison by ear, evenly spread, of each
    the middle example_seconds; 16 of 5 s take about 8 MB. 0 makes no such page."""

    def __post_init__(self) -> None:
        if self.listening_clips < 0:
            raise ValueError(f"listening_clips must not be negative, got {self.listening_clips}")
        if self.visqol_clips < 1:
            raise ValueError(f"visqol_clips must be at least 1, got {self.visqol_clips}")
        if self.examples < 0:
            raise ValueError(f"examples must not be negative, got {self.examples}")
        if not 0.25 <= self.example_seconds <= 60:
            raise ValueError(
                f"example_seconds must lie between 0.25 and 60, got {self.example_seconds}"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Measuring a 48 kHz decoder against resampling, or several against each other too."""

    __aliases__: ClassVar[Mapping[str, Alias]] = FORMER_KEYS
    # Decoder and codec are known by their digests.
    __free_on_resume__: ClassVar[tuple[str, ...]] = (
        "decoder", "codec", "data.limit", "min_coverage", "bootstrap", "report", "cluster",
        "output",
    )  # fmt: skip

    decoder: str | tuple[str, ...]
    """An export, a training run's folder (its export, else its best checkpoint), or USER/NAME of
    one on the hub, with @REVISION for a branch, a tag or a commit; a folder comes first. A list of
    several is measured one by one, into A/, B/ and so on below the output, and compared by clip,
    each against the first."""
    output: str
    """New folder for results.jsonl, summary.json and report.html."""
    codec: str | None = None
    """The untouched codec: a hub name, a folder in its layout, or tiny; null takes the run's."""
    data: EvaluationDataConfig = field(default_factory=EvaluationDataConfig)
    """The clips."""
    noise_floor: bool = True
    """Measure the decoder with its noise floor, where it has one, and in a row of its own without;
    false measures it without alone."""
    quality: QualityConfig = field(default_factory=QualityConfig)
    """Which recordings of an audio folder are left out; each is listed with its reason."""
    min_coverage: float = 0.8
    """The job fails, after writing everything, when a smaller share of clips was measured."""
    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)
    """Intervals."""
    report: ReportConfig = field(default_factory=ReportConfig)
    """The page."""
    cluster: WorkersConfig = field(default_factory=WorkersConfig)
    """Workers."""

    def __post_init__(self) -> None:
        if not isinstance(self.decoder, str) and not 2 <= len(self.decoder) <= MOST_DECODERS:
            raise ValueError(
                f"decoder must be one, or a list of 2 to {MOST_DECODERS}, got {len(self.decoder)}"
            )
        if not 0 <= self.min_coverage <= 1:
            raise ValueError(f"min_coverage must lie between 0 and 1, got {self.min_coverage}")
        if not uris.is_local(self.output):
            raise ValueError(f"output must be a local folder, got {self.output}")


@dataclass(frozen=True, kw_only=True)
class OrpheusConfig(Config):
    """How tokens of an Orpheus-style model are numbered."""

    base: int = ORPHEUS_BASE
    """Id of code 0 at the first place of a frame; a token's id is base + 4096 * place + code."""
    order: tuple[int, ...] = ORPHEUS_ORDER
    """Which column of [c0, c1, c1, c2, c2, c2, c2] each of a frame's seven places holds."""

    def __post_init__(self) -> None:
        if self.base < 0:
            raise ValueError(f"base must not be negative, got {self.base}")
        if sorted(self.order) != sorted(ORPHEUS_ORDER):
            raise ValueError(f"order must name each of 0 to 6 once, got {list(self.order)}")


@dataclass(frozen=True, kw_only=True)
class DecodeConfig(Config):
    """Decoding codes to 48 kHz wav files."""

    __aliases__: ClassVar[Mapping[str, Alias]] = FORMER_KEYS

    decoder: str
    """An export, a training run's folder (its export, else its best checkpoint), or USER/NAME of
    one on the hub, with @REVISION for a branch, a tag or a commit; a folder comes first."""
    input: str
    """A cache, a file of codes (.npy, .pt, .safetensors, .txt, .jsonl), or a folder of such."""
    output: str
    """Folder for the wav files, named after the clips; sub-folders are kept."""
    layout: CodeLayout | None = None
    """Order of the numbers in files that do not tell it themselves: orpheus (tokens), interleaved
    (rows of 1 coarse, 2 middle, 4 fine codes) or scales; with null such a file is refused."""
    orpheus: OrpheusConfig = field(default_factory=OrpheusConfig)
    """The numbers of tokens."""
    limit: int | None = None
    """Decode the first so many clips; null takes all."""
    noise_floor: bool = True
    """Add the decoder's noise floor, where it has one; false decodes without it."""
    min_coverage: float = 1.0
    """The job fails, after writing everything, when a smaller share of clips was decoded."""
    cluster: WorkersConfig = field(default_factory=WorkersConfig)
    """Workers."""

    def __post_init__(self) -> None:
        if self.layout in ("scales", "interleaved") and self.orpheus != OrpheusConfig():
            raise ValueError(f"orpheus has no effect with layout={self.layout}; remove one of them")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1 or null, got {self.limit}")
        if not 0 <= self.min_coverage <= 1:
            raise ValueError(f"min_coverage must lie between 0 and 1, got {self.min_coverage}")
        if not uris.is_local(self.output):
            raise ValueError(f"output must be a local folder, got {self.output}")
