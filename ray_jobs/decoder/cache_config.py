"""The tree of configs/cache_*.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ray_jobs.config.former_keys import Alias
from ray_jobs.config.workers import WorkersConfig
from ttt.config import Config
from ttt.snac.cache.gain_copies import GainCopiesConfig
from ttt.snac.cache.inputs import QualityConfig
from ttt.snac.cache.speakers import check_rule
from ttt.snac.config import AlignConfig, EncodeConfig
from ttt.snac.geometry import TARGET_RATE

INPUT_FOLDERS = {
    "folder": ("audio",),
    "parquet": ("audio",),
    "tar": ("audio",),
    "manifest": ("audio",),
    "pair": ("source_24k", "target_48k"),
    "original": ("codes", "audio_48k"),
}


@dataclass(frozen=True, kw_only=True)
class InputConfig(Config):
    """Where the audio is; each kind has its own keys and refuses the others'."""

    kind: Literal["folder", "parquet", "tar", "manifest", "pair", "original"] = "folder"
    """How the recordings lie on the disk. folder: files; parquet: rows of Hugging Face parquet;
    tar: members of WebDataset tars; manifest: files that a list names; pair: sources and restored
    targets; original: codes that exist."""
    audio: str | tuple[str, ...] | None = None
    """Kinds folder, parquet, tar and manifest: where the recordings are, of at least 44.1 kHz, in
    any format of libsndfile. A folder, searched at any depth; one .parquet or .tar; the manifest.
    A list names several; all kinds but folder may lie at a URI. Of several the clips' ids begin
    with the name of each."""
    column: str | None = None
    """Kind parquet: the column with the sound, a struct of bytes and path; null takes the only one
    there is."""
    source_24k: str | None = None
    """Kind pair: the audio that is encoded, at the codec's rate or above."""
    target_48k: str | None = None
    """Kind pair: the restored audio, matched with its source by path without suffix."""
    codes: str | None = None
    """Kind original: the folder with codes_batch_gpu*.parquet."""
    audio_48k: str | None = None
    """Kind original: the folder with the 48 kHz wavs that file_path names."""
    speaker: str | None = None
    """Writes a speaker to each clip, so that evaluation can count speakers; what has none is left
    out. folder:N takes the N-th folder below the input (from 1; a tar or parquet file counts as
    one), column:NAME a column of a parquet, json:KEY a key of the .json beside a tar's member or of
    a manifest's line. null leaves them unknown."""
    min_bandwidth_hz: float | None = None
    """Leave out clips whose sound does not reach this frequency, whatever their sample rate: they
    teach a head that the upper band is empty. null keeps them; each clip's bandwidth is recorded
    either way."""
    gain_copies_db: GainCopiesConfig | None = None
    """Caches copies of each clip at other levels beside it, so that training hears how the sound
    above the band follows the level; `{}` takes the defaults, null makes none. Splits keep a clip
    and its copies together, and only clips are counted, validated and evaluated."""

    def __post_init__(self) -> None:
        if self.speaker is not None:
            check_rule(self.speaker, self.kind)
        if self.min_bandwidth_hz is not None and not 0 < self.min_bandwidth_hz <= TARGET_RATE / 2:
            raise ValueError(
                f"min_bandwidth_hz must be above 0 and at most {TARGET_RATE // 2:,}, or null, "
                f"got {self.min_bandwidth_hz:g}"
            )
        if self.gain_copies_db is not None and self.kind == "original":
            raise ValueError(
                "gain_copies_db has no effect for kind original, whose codes are taken as they "
                "are; set it to null"
            )
        if self.column is not None and self.kind != "parquet":
            raise ValueError(f"column has no effect for kind {self.kind}; set it to null")
        wanted = INPUT_FOLDERS[self.kind]
        for key in (key for keys in INPUT_FOLDERS.values() for key in keys):
            is_set = getattr(self, key) is not None
            if key in wanted and not (is_set and getattr(self, key)):
                what = {"parquet": "a folder or file", "tar": "a folder or file"}.get(
                    self.kind, "a file" if self.kind == "manifest" else "a folder"
                )
                raise ValueError(f"{key} must name {what} for kind {self.kind}")
            if key not in wanted and is_set:
                raise ValueError(
                    f"{key} has no effect for kind {self.kind}, which reads "
                    f"{' and '.join(wanted)}; set it to null"
                )

    @property
    def encoded_per_input(self) -> int:
        """An input and its copies at other levels."""
        return 1 + (0 if self.gain_copies_db is None else self.gain_copies_db.copies)


@dataclass(frozen=True, kw_only=True)
class CodecConfig(Config):
    """The codec whose encoder makes the codes."""

    name: str = "hubertsiuzdak/snac_24khz"
    """A name on the hub, a local folder in the hub's layout, or "tiny", which ships with ttt."""


@dataclass(frozen=True, kw_only=True)
class EncodersConfig(WorkersConfig):
    """How many encoders run at once; the result does not depend on it."""

    num_workers: int | None = None
    """Encoder processes; null takes one per GPU share, or on CPUs one per CPU but one; 0 encodes in
    this process, without Ray."""
    read_threads: int = 2
    """Threads of each encoder process that read and resample files while it encodes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.read_threads < 1:
            raise ValueError(f"read_threads must be at least 1, got {self.read_threads}")


@dataclass(frozen=True, kw_only=True)
class CacheConfig(Config):
    """From audio to a cache of full-length codes and aligned 48 kHz audio."""

    __aliases__: ClassVar[Mapping[str, Alias]] = {
        "workers.count": Alias("cluster.num_workers"),
        "workers.num_gpus": Alias("cluster.gpus_per_worker"),
        "workers.read_threads": Alias("cluster.read_threads"),
        "ray.address": Alias("cluster.address"),
        "ray.local_cpus": Alias("cluster.local_cpus"),
    }

    __free_on_resume__: ClassVar[tuple[str, ...]] = (
        "output", "codec", "min_cached_share", "cluster",
    )  # fmt: skip
    """The codec is known by its digest."""

    input: InputConfig
    """The audio."""
    output: str
    """The cache folder to write, a path or a URI (s3://..., gs://...)."""
    codec: CodecConfig = field(default_factory=CodecConfig)
    """The codec."""
    clips_per_shard: int = 1000
    """Inputs per shard: the unit of work, of resuming, and of memory (about 0.7 GB per 1,000)."""
    quality: QualityConfig = field(default_factory=QualityConfig)
    """Which audio is left out."""
    align: AlignConfig | None = None
    """How targets are aligned with their sources; for input.kind pair, and only there."""
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    """How much the encoder takes at once; kind original encodes nothing."""
    min_cached_share: float = 0.5
    """The job fails when less than this share of the inputs could be cached."""
    cluster: EncodersConfig = field(default_factory=EncodersConfig)
    """How many encoders run, and where."""

    def __post_init__(self) -> None:
        if not 1 <= self.clips_per_shard <= 100_000:
            raise ValueError(
                f"clips_per_shard must be from 1 to 100,000, got {self.clips_per_shard}"
            )
        if not 0 <= self.min_cached_share <= 1:
            raise ValueError(f"min_cached_share must be from 0 to 1, got {self.min_cached_share}")
        if self.input.kind == "pair" and self.align is None:
            raise ValueError("align must be given for input.kind pair; `align: {}` for defaults")
        if self.input.kind != "pair" and self.align is not None:
            raise ValueError(f"align has no effect for input.kind {self.input.kind}; remove it")
        if self.input.kind == "original" and self.encode != EncodeConfig():
            raise ValueError("encode has no effect for input.kind original; remove it")
