"""`python -m ray_jobs.cache_codes`: audio to a cache of full-length codes and 48 kHz targets.

Every input ends in a shard or in manifest.jsonl with its reason. Killed at any moment and run
again with the same configuration, the job encodes only the shards that are missing and ends
with the same bytes.

    python -m ray_jobs.cache_codes --config configs/cache_folder.yaml input.audio=DIR output=DIR
    python -m ray_jobs.cache_codes --verify DIR
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from ray_jobs import run_folder
from ray_jobs.cache_plan import (
    CachePlan,
    claim_output,
    claimed_shards,
    describe,
    has_facts,
    make_plan,
    pending_shards,
)
from ray_jobs.cache_worker import CacheConfig, ShardEncoder, shard_row
from ray_jobs.cli import Action, Invocation, run
from ray_jobs.progress import Progress
from ray_jobs.runtime import actors_that_fit, ray_session
from ttt import records, storage
from ttt.errors import UserError
from ttt.snac.cache_shard import check_manifest, merge_manifest
from ttt.snac.clip_facts import BandwidthHours
from ttt.snac.geometry import TARGET_RATE
from ttt.snac.shards import build_index, read_catalogue, verify_cache

if TYPE_CHECKING:
    from ray.actor import ActorHandle


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    check = Action("--verify", ("DIR",), "check an existing cache and stop", verify)
    return run(
        CacheConfig,
        execute=execute,
        describe=describe,
        doc=__doc__ or "",
        argv=argv,
        actions=[check],
    )


def execute(config: CacheConfig, invocation: Invocation) -> None:
    """Cache what is missing, then write manifest, index and summary."""
    plan = make_plan(config)
    with run_folder.locked(config.output):
        claim_output(config, plan)
        _cache(config, plan, invocation)


def _cache(config: CacheConfig, plan: CachePlan, invocation: Invocation) -> None:
    pending = pending_shards(config, plan)
    summary_uri = storage.join(config.output, "summary.json")
    if pending or not storage.exists(summary_uri):
        started = time.monotonic()
        timing: dict[str, Any] = {"shards": 0}
        if pending:
            with ray_session(invocation.address or config.ray.address, config.ray.local_cpus):
                timing = _encode(config, plan, pending)
            missing = len(pending_shards(config, plan))
            if missing:
                raise UserError(
                    f"{config.output}: {missing} shards that were written are not there; "
                    "output must be a folder that every node sees, or a URI such as s3://..."
                )
        summary = _finish(config, plan, timing, time.monotonic() - started)
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
    n_samples = read_catalogue(cache)["n_samples"].to_numpy()
    hours = n_samples.sum() / TARGET_RATE / 3600
    print(f"ok: {len(n_samples):,} clips, {hours:.2f} hours")


def _encode(config: CacheConfig, plan: CachePlan, pending: list[int]) -> dict[str, Any]:
    """Run the pending shards through a pool of encoders; returns what it took."""
    from ray_jobs.work_counter import counted_progress  # Ray is imported only where it runs.

    workers = min(_count_workers(config), len(pending))
    done = plan.n_inputs - sum(len(plan.shards[number]) for number in pending)
    shards_done = len(plan.shards) - len(pending)
    audio_seconds, cpu_seconds, began, ended = 0.0, 0.0, float("inf"), 0.0
    fields: dict[str, object] = {}
    with (
        Progress("caching", plan.n_inputs, "clips", done=done) as progress,
        counted_progress(progress, fields) as counter,
    ):
        for status in _statuses(config, plan, pending, workers, counter):
            shards_done += 1
            audio_seconds += status["audio_seconds"]
            cpu_seconds += status["cpu_seconds"]
            ended = time.monotonic()
            began = min(began, ended - status["seconds"])
            fields["shards"] = f"{shards_done:,}/{len(plan.shards):,}"
            fields["x_real_time"] = audio_seconds / (ended - began)
    return {
        "shards": len(pending),
        "workers": workers,
        "encoding_seconds": ended - began,
        "times_real_time": audio_seconds / (ended - began),
        "encoder_cpu_seconds": cpu_seconds,
        "audio_seconds": audio_seconds,
    }


def _statuses(
    config: CacheConfig,
    plan: CachePlan,
    pending: list[int],
    workers: int,
    counter: ActorHandle,
) -> Iterator[dict[str, Any]]:
    """The encoders' reports, each as soon as its shard is finished."""
    import ray.data

    shards = claimed_shards(config, plan)
    rows = ray.data.from_arrow([shard_row(number, shards[number]) for number in pending])
    with warnings.catch_warnings():
        # Ray 2.60 deprecates these two without offering others.
        warnings.simplefilter("ignore", DeprecationWarning)
        statuses = rows.map_batches(
            ShardEncoder,
            fn_constructor_args=(_for_workers(config), counter),
            fn_constructor_kwargs={"with_facts": has_facts(config)},
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            num_cpus=1,
            num_gpus=config.workers.num_gpus or None,
            # A killed encoder starts again and its shard with it; one that dies again and again
            # (too little memory) must not go on for ever. Shards' own retries are not counted: a
            # lost node takes Ray seconds to notice, in which it uses up any number of them.
            max_restarts=10,
            max_task_retries=-1,
        )
    # Without prefetching: each status is passed on as soon as its shard is finished.
    for batch in statuses.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from cast(pa.Table, batch).to_pylist()


def _for_workers(config: CacheConfig) -> CacheConfig:
    """The configuration with paths that mean the same in a worker's folder."""
    name = config.codec.name
    codec = replace(config.codec, name=storage.absolute(name) if os.path.isdir(name) else name)
    return replace(config, output=storage.absolute(config.output), codec=codec)


def _count_workers(config: CacheConfig) -> int:
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    share = config.workers.num_gpus
    room = actors_that_fit(nodes, 1, share)
    if config.workers.count is None:
        count = room if share else max(1, room - 1)
    else:
        count = config.workers.count
    if count > room or room == 0:
        raise UserError(
            f"workers: {max(count, 1)} encoders need a CPU each"
            + (f" and {share:g} GPU each" if share else "")
            + f", but Ray has {cpus:g} CPUs and {gpus:g} GPUs, room for {room}; "
            + "lower workers.count or workers.num_gpus"
        )
    return count


def _finish(
    config: CacheConfig, plan: CachePlan, timing: dict[str, Any], seconds: float
) -> dict[str, Any]:
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


if __name__ == "__main__":
    sys.exit(main())
