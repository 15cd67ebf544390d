"""The worker that caches shards."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace

import torch

from ray_jobs.decoder.cache_config import CacheConfig
from ray_jobs.runtime.items import Count
from ttt.numerics import exact_float32
from ttt.snac.cache.bandwidth import add_facts
from ttt.snac.cache.encode import ClipEncoder
from ttt.snac.cache.gain_copies import add_copies
from ttt.snac.cache.inputs import ClipInput, size_on_disk
from ttt.snac.cache.original import prepare_original
from ttt.snac.cache.shards import CodecIdentity
from ttt.snac.cache.sources import prepare_pair, prepare_recording
from ttt.snac.cache.write_shard import Prepare, cache_shard
from ttt.snac.geometry import CodeGeometry
from ttt.snac.load import load_codec

Shard = tuple[int, tuple[ClipInput, ...]]
"""A shard's number and its inputs."""


@dataclass(frozen=True)
class Noted:
    """What the shards of a cache note of each clip, decided when the first of them is begun."""

    facts: bool
    """What ClipFacts names."""
    sizes: bool
    """The size of its files."""


@dataclass(frozen=True)
class ShardStatus:
    """What a shard took; in seconds, since clocks of nodes differ and may be set back."""

    audio_seconds: float
    left_out: int
    """Inputs that are not cached."""
    seconds: float
    cpu_seconds: float


class ShardEncoder:
    """A worker: holds the encoder, turns a shard's inputs into its files."""

    def __init__(
        self, config: CacheConfig, codec: CodecIdentity, count: Count, noted: Noted
    ) -> None:
        # The same codes on every run: no fast approximations, and one thread on a CPU.
        exact_float32()
        device = config.cluster.device
        if device == "cpu":
            torch.set_num_threads(1)
        loaded = load_codec(config.codec.name, device, known_sha256=codec.weights_sha256)
        self._config, self._count = config, count
        self._encoder = ClipEncoder(loaded.model, config.encode)
        self._codec = codec
        prepare = prepare_function(config, loaded.geometry)
        if noted.facts:
            prepare = functools.partial(add_facts, prepare, config.input.min_bandwidth_hz)
        copies = config.input.gain_copies_db
        if copies is not None:
            silent_peak_db = config.quality.silent_peak_db
            prepare = functools.partial(add_copies, prepare, copies, silent_peak_db)
        self._prepare, self._noted = prepare, noted

    def cache(self, shard: Shard) -> ShardStatus:
        """Write the shard's files."""
        number, inputs = shard
        if self._noted.sizes:
            inputs = tuple(replace(clip, file_bytes=size_on_disk(clip)) for clip in inputs)
        began, cpu_began = time.monotonic(), time.process_time()
        encoded = 0

        def on_batch(n_clips: int) -> None:
            nonlocal encoded
            encoded += n_clips
            self._count(number, encoded // self._config.input.encoded_per_input)

        lines = cache_shard(
            self._config.output,
            number,
            inputs,
            self._prepare,
            self._encoder,
            self._codec,
            self._config.cluster.read_threads,
            on_batch,
        )
        self._count(number, len(lines))
        return ShardStatus(
            audio_seconds=sum(line["seconds"] for line in lines if line["status"] == "cached"),
            left_out=sum(line["status"] != "cached" for line in lines),
            seconds=time.monotonic() - began,
            cpu_seconds=time.process_time() - cpu_began,
        )


def prepare_function(config: CacheConfig, geometry: CodeGeometry) -> Prepare:
    """How an input of this configuration becomes a clip."""
    if config.input.kind == "original":
        return functools.partial(prepare_original, geometry=geometry, quality=config.quality)
    if config.align is not None:
        return functools.partial(
            prepare_pair, geometry=geometry, quality=config.quality, align=config.align
        )
    return functools.partial(
        prepare_recording, geometry=geometry, quality=config.quality, column=config.input.column
    )
