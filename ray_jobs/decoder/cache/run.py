"""Caching: the shards that are missing, encoded by workers, then manifest, index and summary."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

from ray_jobs.decoder.cache.encoder import Shard, ShardEncoder
from ray_jobs.decoder.cache.plan import (
    CachePlan,
    claim_output,
    noted,
    pending_shards,
)
from ray_jobs.decoder.cache_config import CacheConfig
from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Invocation
from ray_jobs.runtime.items import Session, WorkerDied, worker_session
from ray_jobs.runtime.progress import Counted, Progress
from ttt import records, storage
from ttt.errors import UserError
from ttt.snac.cache.bandwidth import BandwidthHours
from ttt.snac.cache.catalogue import Catalogue
from ttt.snac.cache.shards import build_index, read_catalogue
from ttt.snac.cache.verify import verify_cache
from ttt.snac.cache.write_shard import check_manifest, merge_manifest
from ttt.snac.geometry import TARGET_RATE


def execute(plan: CachePlan, invocation: Invocation) -> None:
    """Cache what is missing, then write manifest, index and summary."""
    with run_folder.locked(plan.config.output):
        claim_output(plan)
        _cache(plan, invocation)


def _cache(plan: CachePlan, invocation: Invocation) -> None:
    config, pending = plan.config, pending_shards(plan)
    summary_uri = storage.join(config.output, "summary.json")
    if pending or not storage.exists(summary_uri):
        started = time.monotonic()
        timing: dict[str, Any] = {"shards": 0}
        if pending:
            with worker_session(config.cluster, invocation.address, wanted=len(pending)) as session:
                timing = _encode(plan, pending, session)
            missing = len(pending_shards(plan))
            if missing:
                raise UserError(
                    f"{config.output}: {missing} shards that were written are not there; "
                    "output must be a folder that every node sees, or a URI such as s3://..."
                )
        summary = _finish(plan, timing, time.monotonic() - started)
        records.write_json(summary_uri, summary)
    else:
        print(f"{config.output}: already complete, nothing to do")
    _report(config, records.read_json(summary_uri))


def verify(cache: str) -> None:
    """Print what is broken in a cache, or that it is sound. Raises UserError when it is broken."""
    problems = verify_cache(cache) or check_manifest(cache)
    for problem in problems:
        print(problem)
    if problems:
        raise UserError(f"{cache}: {len(problems)} problem(s), listed above; run its job again")
    catalogue = Catalogue.of(read_catalogue(cache))
    hours = catalogue.n_samples[catalogue.originals].sum() / TARGET_RATE / 3600
    print(f"ok: {catalogue.counted_in_words()}, {hours:.2f} hours")


def _encode(plan: CachePlan, pending: list[int], session: Session) -> dict[str, Any]:
    """Cache the pending shards; returns what it took."""
    config = plan.config
    work: list[Shard] = [(number, plan.shards[number]) for number in pending]
    done = plan.n_inputs - sum(len(inputs) for _, inputs in work)
    shards_done = len(plan.shards) - len(pending)
    audio_seconds, cpu_seconds, began, ended = 0.0, 0.0, float("inf"), 0.0
    left_out = 0
    fields: dict[str, object] = {}
    arguments = _for_workers(config), plan.codec
    with (
        Progress("caching", plan.n_inputs, "clips", done=done) as progress,
        session.exporting(progress, "cache_codes", config.output),
        session.counting(progress, fields) as count,
        session.workers(ShardEncoder, *arguments, count, noted(config)) as workers,
    ):
        for (number, _), status in workers.each("cache", work, progress=progress):
            if isinstance(status, WorkerDied):
                raise UserError(
                    f"{config.output}: shard {number} was not written, {status.reason}; give each "
                    "encoder more memory or lower clips_per_shard, and run the job again"
                )
            shards_done += 1
            audio_seconds += status.audio_seconds
            cpu_seconds += status.cpu_seconds
            ended = time.monotonic()
            began = min(began, ended - status.seconds)
            fields["shards"] = Counted(shards_done, len(plan.shards))
            fields["x_real_time"] = audio_seconds / (ended - began)
            left_out += status.left_out
            if left_out:
                fields["left_out"] = left_out
        count_workers = workers.count
    return {
        "shards": len(pending),
        "workers": min(count_workers, len(pending)),
        "encoding_seconds": ended - began,
        "times_real_time": audio_seconds / (ended - began),
        "encoder_cpu_seconds": cpu_seconds,
        "audio_seconds": audio_seconds,
    }


def _for_workers(config: CacheConfig) -> CacheConfig:
    """The configuration with paths that mean the same in a worker's folder."""
    name = config.codec.name
    codec = replace(config.codec, name=storage.absolute(name) if os.path.isdir(name) else name)
    return replace(config, output=storage.absolute(config.output), codec=codec)


def _finish(plan: CachePlan, timing: dict[str, Any], seconds: float) -> dict[str, Any]:
    config = plan.config
    counts = merge_manifest(config.output, len(plan.shards))
    if counts["cached"]:
        build_index(config.output)
    return {
        **counts,
        "shards": len(plan.shards),
        "notes": list(plan.notes),
        "codec": {"name": plan.codec.name, "weights_sha256": plan.codec.weights_sha256},
        "last_run": {**timing, "seconds": seconds},
        "provenance": records.provenance(config),
    }


def _report(config: CacheConfig, summary: dict[str, Any]) -> None:
    """Say how it ended. Raises UserError when too few inputs could be cached."""
    reasons = ", ".join(f"{n:,} {name}" for name, n in summary["left_out_by_reason"].items())
    manifest = storage.join(config.output, "manifest.jsonl")
    print(
        f"cached {summary['cached']:,} of {summary['inputs']:,} clips, {summary['hours']:.2f} h"
        + _copies_in_words(config, summary.get("gain_copies"))  # Older summaries have no such key.
        + (f"; left out: {reasons} (see {manifest})" if reasons else "")
    )
    alignment = summary["alignment"]
    if alignment is not None:
        gain, lag = alignment["gain_db"], alignment["lag_samples"]
        print(
            f"aligned: median gain {gain['median']:+.2f} dB, "
            f"{alignment['clips_with_gain_beyond_1_db']:,} clips beyond 1 dB; "
            f"lag {lag['min']:g} to {lag['max']:g} samples at 48 kHz"
        )
    if "bandwidth" in summary:  # Older caches' summaries say nothing of it.
        print(BandwidthHours(**summary["bandwidth"]["hours"]).sentence())
    share = summary["cached"] / summary["inputs"]
    if summary["cached"] == 0 or share < config.min_cached_share:
        raise UserError(
            f"{config.output}: only {share:.1%} of the inputs were cached ({reasons}), "
            f"min_cached_share is {config.min_cached_share:.1%}; see {manifest}"
        )
    last = summary["last_run"]
    if "times_real_time" in last:
        print(f"{last['times_real_time']:.1f} x real time with {last['workers']} encoder(s)")
    print(config.output)


def _copies_in_words(config: CacheConfig, copied: dict[str, Any] | None) -> str:
    if copied is None or config.input.gain_copies_db is None:
        return ""
    wanted = config.input.gain_copies_db.copies
    fewer = sum(n for each, n in copied["clips_by_copies"].items() if int(each) < wanted)
    return f", and {copied['copies']:,} copies at other levels, {copied['hours']:.2f} h" + (
        f" ({fewer:,} clips have fewer than {wanted}, manifest.jsonl says why)" if fewer else ""
    )
