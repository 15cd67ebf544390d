"""The configuration of the caching job, and the actor that caches shards."""

from __future__ import annotations

import functools
import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import torch

from ttt.config import Config
from ttt.exact_float32 import exact_float32
from ttt.snac.align import AlignConfig
from ttt.snac.cache_shard import Prepare, cache_shard
from ttt.snac.clip_facts import add_facts
from ttt.snac.clip_input import ClipInput, QualityConfig
from ttt.snac.clip_sources import prepare_pair, prepare_recording
from ttt.snac.encode import ClipEncoder, EncodeConfig
from ttt.snac.geometry import TARGET_RATE, CodeGeometry
from ttt.snac.load import load_codec
from ttt.snac.original_cache import prepare_original
from ttt.snac.shards import CodecIdentity
from ttt.snac.speakers import folder_number

if TYPE_CHECKING:
    from ray.actor import ActorHandle  # Reading a configuration must not cost the import.

INPUT_FOLDERS = {
    "folder": ("audio",),
    "pair": ("source_24k", "target_48k"),
    "original": ("codes", "audio_48k"),
}


@dataclass(frozen=True, kw_only=True)
class InputConfig(Config):
    """Where the audio is; each kind has its own keys and refuses the others'."""

    kind: Literal["folder", "pair", "original"] = "folder"
    """folder: recordings; pair: sources and restored targets; original: codes that exist."""
    audio: str | None = None
    """Kind folder: recordings of at least 44.1 kHz, any depth, any format of libsndfile."""
    source_24k: str | None = None
    """Kind pair: the audio that is encoded, at the codec's rate or above."""
    target_48k: str | None = None
    """Kind pair: the restored audio, matched with its source by path without suffix."""
    codes: str | None = None
    """Kind original: the folder with codes_batch_gpu*.parquet."""
    audio_48k: str | None = None
    """Kind original: the folder with the 48 kHz wavs that file_path names."""
    speaker: str | None = None
    """folder:N writes each clip's N-th folder below the input (from 1) as its speaker, so that
    evaluation can count speakers; null leaves them unknown."""
    min_bandwidth_hz: float | None = None
    """Leave out clips whose sound does not reach this frequency, whatever their sample rate: they
    teach a head that the upper band is empty. null keeps them; each clip's bandwidth is recorded
    either way."""

    def __post_init__(self) -> None:
        if self.speaker is not None:
            folder_number(self.speaker)
        if self.min_bandwidth_hz is not None and not 0 < self.min_bandwidth_hz <= TARGET_RATE / 2:
            raise ValueError(
                f"min_bandwidth_hz must be above 0 and at most {TARGET_RATE // 2:,}, or null, "
                f"got {self.min_bandwidth_hz:g}"
            )
        wanted = INPUT_FOLDERS[self.kind]
        for key in (key for keys in INPUT_FOLDERS.values() for key in keys):
            is_set = getattr(self, key) is not None
            if key in wanted and not is_set:
                raise ValueError(f"{key} must name a folder for kind {self.kind}")
            if key not in wanted and is_set:
                raise ValueError(
                    f"{key} has no effect for kind {self.kind}, which reads "
                    f"{' and '.join(wanted)}; set it to null"
                )


@dataclass(frozen=True, kw_only=True)
class CodecConfig(Config):
    """The codec whose encoder makes the codes."""

    name: str = "hubertsiuzdak/snac_24khz"
    """A name on the hub, a local folder in the hub's layout, or "tiny", which ships with ttt."""


@dataclass(frozen=True, kw_only=True)
class WorkersConfig(Config):
    """How many encoders run at once; the result does not depend on it."""

    count: int | None = None
    """Encoder processes; null takes one per GPU share, or on CPUs one per CPU but one."""
    num_gpus: float = 0.0
    """Share of a GPU for each encoder: 1, 0.5, 0.25 ...; 0 encodes on the CPU."""
    read_threads: int = 2
    """Threads of each encoder process that read and resample files while it encodes."""

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError(f"count must be at least 1, or null, got {self.count}")
        if self.num_gpus < 0 or (self.num_gpus > 1 and self.num_gpus != int(self.num_gpus)):
            raise ValueError(f"num_gpus must be 0, a share up to 1, got {self.num_gpus}")
        if self.read_threads < 1:
            raise ValueError(f"read_threads must be at least 1, got {self.read_threads}")


@dataclass(frozen=True, kw_only=True)
class RayConfig(Config):
    """The Ray that the job runs on."""

    address: str | None = None
    """A running cluster; null takes RAY_ADDRESS, or starts a local Ray."""
    local_cpus: int | None = None
    """CPUs of a local Ray; null takes all of the machine. Has no effect on a cluster."""

    def __post_init__(self) -> None:
        if self.local_cpus is not None and self.local_cpus < 1:
            raise ValueError(f"local_cpus must be at least 1, or null, got {self.local_cpus}")


@dataclass(frozen=True, kw_only=True)
class CacheConfig(Config):
    """From audio to a cache of full-length codes and aligned 48 kHz audio."""

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
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    """How many encoders run."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where they run."""

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


STATUS_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("inputs", pa.int64()),
        ("cached", pa.int64()),
        ("audio_seconds", pa.float64()),
        ("seconds", pa.float64()),
        ("cpu_seconds", pa.float64()),
    ]
)
"""What the encoder reports of each shard; seconds are what it took, since clocks of nodes differ
and may be set back."""


class ShardEncoder:
    """A Ray actor: holds the encoder, turns one row (a shard's inputs) into files and a status."""

    def __init__(self, config: CacheConfig, counter: ActorHandle, *, with_facts: bool) -> None:
        """`with_facts` is false for a cache whose other shards tell no ClipFacts."""
        from ray_jobs.actors import ending_with_device  # Ray, which configurations do without.

        device = "cuda" if config.workers.num_gpus else "cpu"
        # The same codes on every run: no fast approximations, and one thread on a CPU.
        exact_float32()
        if device == "cpu":
            torch.set_num_threads(1)
        with ending_with_device():
            codec = load_codec(config.codec.name, device)
        self._config = config
        self._counter = counter
        self._encoder = ClipEncoder(codec.model, config.encode)
        self._codec = CodecIdentity(codec.name, codec.weights_sha256)
        prepare = prepare_function(config, codec.geometry)
        if with_facts:
            prepare = functools.partial(add_facts, prepare, config.input.min_bandwidth_hz)
        self._prepare = prepare

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Cache the shards of `rows` (shard_rows) and report on each."""
        from ray_jobs.actors import ending_with_device  # As above.

        with ending_with_device():
            statuses = [self._cache(row) for row in rows.to_pylist()]
        return pa.Table.from_pylist(statuses, STATUS_SCHEMA)

    def _cache(self, row: dict[str, object]) -> dict[str, object]:
        inputs = [ClipInput(**clip) for clip in json.loads(str(row["inputs"]))]
        number = int(str(row["shard"]))
        began, cpu_began = time.monotonic(), time.process_time()
        encoded = 0

        def on_batch(n_clips: int) -> None:
            nonlocal encoded
            encoded += n_clips
            self._counter.count.remote(number, encoded)

        lines = cache_shard(
            self._config.output,
            number,
            inputs,
            self._prepare,
            self._encoder,
            self._codec,
            self._config.workers.read_threads,
            on_batch,
        )
        self._counter.count.remote(number, len(lines))
        cached = [line for line in lines if line["status"] == "cached"]
        return {
            "shard": number,
            "inputs": len(lines),
            "cached": len(cached),
            "audio_seconds": sum(line["seconds"] for line in cached),
            "seconds": time.monotonic() - began,
            "cpu_seconds": time.process_time() - cpu_began,
        }


def shard_row(number: int, inputs: tuple[ClipInput, ...]) -> pa.Table:
    """A shard as the one row that travels to an encoder."""
    text = json.dumps([asdict(clip) for clip in inputs])
    return pa.table({"shard": pa.array([number], pa.int64()), "inputs": pa.array([text])})


def prepare_function(config: CacheConfig, geometry: CodeGeometry) -> Prepare:
    """How an input of this configuration becomes a clip."""
    if config.input.kind == "original":
        return functools.partial(prepare_original, geometry=geometry, quality=config.quality)
    if config.align is not None:
        return functools.partial(
            prepare_pair, geometry=geometry, quality=config.quality, align=config.align
        )
    return functools.partial(prepare_recording, geometry=geometry, quality=config.quality)
