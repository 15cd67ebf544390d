"""The plan of a caching job in words, and what it will need."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

from ray_jobs.decoder.cache.plan import CachePlan
from ray_jobs.decoder.cache_config import CacheConfig
from ttt.snac.geometry import TARGET_RATE, CodeGeometry


def describe(plan: CachePlan) -> str:
    """The plan in words."""
    config = plan.config
    hours = plan.seconds_per_clip * plan.n_inputs / 3600
    weights = plan.codec.weights_sha256[:12]
    progress = (
        ""
        if plan.finished is None
        else f"; {plan.finished:,} are finished, the run goes on from there"
    )
    files = "index.arrow, codes.bin, manifest.jsonl, summary.json, config.yaml, cache.json"
    copies = [each for each in [config.input.gain_copies_db] if each is not None]
    gib = _written_gib(config, hours)
    lines = [
        *(f"root     {root}" for root in plan.roots),
        f"input    {plan.n_inputs:,} inputs ({_suffixes(plan)}), about {hours:.2f} h of audio",
        *(f"copies   {each.words}: {each.copies * hours:.2f} h more" for each in copies),
        f"codec    {plan.codec.name} (weights {weights}): {_geometry(plan.geometry)}",
        f"shards   {len(plan.shards):,} of at most {config.clips_per_shard:,} inputs{progress}",
        f"workers  {_workers(config)}; each needs about {_worker_gib(plan):.1f} GiB",
        f"output   {config.output}: about {gib:.2f} GiB in shards/, and {files}",
    ]
    return "\n".join([*lines, *(f"note     {note}" for note in plan.notes)])


def _suffixes(plan: CachePlan) -> str:
    counts = Counter(
        PurePosixPath(clip.clip_id if clip.span else clip.source or clip.target).suffix.lower()
        or "no file"
        for shard in plan.shards
        for clip in shard
    )
    return ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common())


def _geometry(geometry: CodeGeometry) -> str:
    return (
        f"{geometry.sample_rate:,} Hz, hop {geometry.hop_samples}, strides {geometry.strides}, "
        f"codebooks of {geometry.codebook_size:,}"
    )


def _workers(config: CacheConfig) -> str:
    share = config.cluster.gpus_per_worker
    kind = f"with {share:g} GPU each" if share else "on the CPU, one core each"
    if config.cluster.num_workers == 0:
        return f"one encoder in this process, {kind}"
    if config.cluster.num_workers is not None:
        return f"{config.cluster.num_workers} encoders {kind}"
    return f"encoders {kind}, " + ("one per GPU share" if share else "one per CPU but one")


def _worker_gib(plan: CachePlan) -> float:
    """The shard's audio (16-bit, and as float until it is encoded) with its copies, the encoder, a
    row group of ours and one of a parquet that is read."""
    config, rate = plan.config, plan.geometry.sample_rate
    clips = min(config.clips_per_shard, plan.n_inputs) * config.input.encoded_per_input
    audio_bytes = clips * plan.seconds_per_clip * (2 * TARGET_RATE + 4 * rate)
    encoder_bytes = config.encode.max_batch_seconds * rate * plan.encoder_dim * 4 * 5
    return (audio_bytes + encoder_bytes + plan.held_bytes) / 2**30 + 0.7


def _written_gib(config: CacheConfig, hours: float) -> float:
    return hours * config.input.encoded_per_input * 3600 * TARGET_RATE * 2 / 2**30
