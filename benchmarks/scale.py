"""What 2.8 million clips and 1,000 chapters cost before the first of them is computed.

    python -m benchmarks.scale [--quick]

index     a cache of 2.8 million clips (5,000 hours, 1.7 TB) is opened by a fresh process: seconds
          and memory. The shards are sparse files of the right sizes, the index is a real one
plan      the same process draws an epoch's order and every window of it
workers   how evenly 256 workers share an epoch: micro-batches, seconds of audio, and the read tasks
          that Ray holds at once
chapters  1,000 chapters as long as LibriLight's on 64 actors, longest first as
          `ray_jobs.chapter_plan` orders them, by a simulated clock, against the shortest time
          that is possible
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ray_jobs.window_source import SPAN_MICRO_BATCHES
from ttt.snac.cache import open_cache
from ttt.snac.geometry import TARGET_RATE, CodeGeometry
from ttt.snac.shard_file import CodecIdentity, ShardHeader, shard_schema
from ttt.snac.shards import codes_uri, index_uri, shards_folder
from ttt.snac.windows import BatchId, WindowPlan, WindowShape, rank_micro_batches

GEOMETRY = CodeGeometry.preset("snac_24khz")
CLIPS, CLIPS_PER_SHARD, MEAN_SECONDS = 2_800_000, 1_000, 6.43
WORKERS = 256
CHAPTERS, ACTORS, MEAN_CHAPTER_MINUTES = 1_000, 64, 15.8
REACH_SAMPLES_48K = 40_000


def main() -> int:
    """Run all and print figures beside their targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the clips")
    parser.add_argument("--measure", metavar="CACHE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return 0
    clips = CLIPS // 100 if options.quick else CLIPS
    with tempfile.TemporaryDirectory() as folder:
        hours, terabytes = write_sparse_cache(Path(folder), clips)
        command = [sys.executable, "-m", "benchmarks.scale", "--measure", folder]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    print(f"{clips:,} clips, {hours:,.0f} hours, {terabytes:.2f} TB")
    print(f"  index opened in         {found['open_seconds']:.2f} s    (reach < 2)")
    print(f"  memory it takes         {found['open_mb']:.0f} MB   (reach < 200)")
    print(f"  an epoch's order        {found['order_seconds']:.2f} s")
    print(f"  and all of its windows  {found['plan_seconds']:.2f} s    (reach < 2)")
    print(f"  memory of the order     {found['order_mb']:.0f} MB, of all windows at once "
          f"{found['windows_mb']:.0f} MB")  # fmt: skip
    print(f"{WORKERS} workers, one epoch of 1 s windows")
    print(f"  steps                   {found['steps']:,}")
    print(f"  micro-batches each      {found['least']:,} to {found['most']:,}")
    print(
        f"  audio each, against the mean: {found['audio_least']:.4f} to {found['audio_most']:.4f}"
    )
    print(f"  read tasks at once      {SPAN_MICRO_BATCHES:,}")
    print_chapters()
    return 0


def write_sparse_cache(folder: Path, clips: int) -> tuple[float, float]:
    """A cache whose shards and codes are holes of the right size; returns hours and terabytes."""
    generator = np.random.default_rng(0)
    seconds = np.clip(generator.lognormal(np.log(MEAN_SECONDS) - 0.125, 0.5, clips), 1.0, 30.0)
    coarse_samples = GEOMETRY.samples_48k(1)
    n_coarse = np.ceil(seconds * TARGET_RATE / coarse_samples).astype(np.int32)
    shard = (np.arange(clips) // CLIPS_PER_SHARD).astype(np.int32)
    audio_bytes = n_coarse.astype(np.int64) * coarse_samples * 2
    shard_bytes = np.bincount(shard, weights=audio_bytes).astype(np.int64)
    first_in_shard = np.repeat(
        np.cumsum(audio_bytes)[::CLIPS_PER_SHARD] - audio_bytes[::CLIPS_PER_SHARD], CLIPS_PER_SHARD
    )[:clips]
    codes_offset = np.cumsum(n_coarse, dtype=np.int64) - n_coarse
    header = ShardHeader(GEOMETRY, CodecIdentity("benchmark", "0" * 64))
    os.makedirs(shards_folder(folder))
    shards = [(f"shard-{number:05d}.parquet", int(size)) for number, size in enumerate(shard_bytes)]
    for name, size in shards:
        _hole(Path(shards_folder(folder)) / name, size)
    total = int(n_coarse.sum(dtype=np.int64))
    _hole(Path(codes_uri(folder)), total * GEOMETRY.codes_per_coarse * 2)
    table = pa.table(
        {
            "clip_id": pa.array([f"speaker_{i % 7000}/clip_{i:07d}" for i in range(clips)]),
            "shard": shard,
            "row": (np.arange(clips) % CLIPS_PER_SHARD).astype(np.int32),
            "audio_offset": np.cumsum(audio_bytes) - audio_bytes - first_in_shard + 4,
            "n_coarse": n_coarse,
            "n_samples": (seconds * TARGET_RATE).astype(np.int32),
            "codes_offset": codes_offset,
        }
    ).replace_schema_metadata(
        {**(shard_schema(header).metadata or {}), b"ttt.shards": json.dumps(shards).encode()}
    )
    with pa.OSFile(index_uri(folder), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return float(seconds.sum() / 3600), float(shard_bytes.sum() / 1e12)


def measure(uri: str) -> dict[str, Any]:
    """Open the cache and draw an epoch, in this process; sizes in MB of resident memory."""
    before, began = _resident_mb(), time.perf_counter()
    cache = open_cache(uri)
    plan = WindowPlan(
        cache.catalogue.n_coarse, cache.catalogue.n_samples, GEOMETRY, REACH_SAMPLES_48K, seed=0
    )
    shape = WindowShape(GEOMETRY.tokens(1.0, "floor_total")[0], 2, 1, WORKERS)
    found: dict[str, Any] = {"open_seconds": time.perf_counter() - began}
    found["open_mb"] = _resident_mb() - before
    before, began = _resident_mb(), time.perf_counter()
    plan.windows(shape, BatchId(epoch=1, step=0, micro=0))
    found["order_seconds"] = time.perf_counter() - began
    found["order_mb"] = _resident_mb() - before
    before = _resident_mb()
    steps = plan.steps(shape)
    # One micro-batch of everything: the windows are the same ones, drawn clip by clip.
    whole = WindowShape(
        shape.core_coarse, shape.context_coarse, clips_per_micro_batch=steps * WORKERS,
        micro_batches_per_step=1,
    )  # fmt: skip
    windows = plan.windows(whole, BatchId(epoch=1, step=0, micro=0))
    found["plan_seconds"] = time.perf_counter() - began
    found["windows_mb"] = _resident_mb() - before
    audio = windows.valid_samples.reshape(steps, WORKERS).sum(axis=0)
    shares = [len(rank_micro_batches(rank, WORKERS, WORKERS)) * steps for rank in range(WORKERS)]
    return found | {
        "steps": steps,
        "least": min(shares),
        "most": max(shares),
        "audio_least": float(audio.min() / audio.mean()),
        "audio_most": float(audio.max() / audio.mean()),
    }


def print_chapters() -> None:
    """Time to the last chapter's end over the shortest time possible, for two orders."""
    minutes = chapter_lengths()
    # Acceptance, and with it speed, differs between chapters; the order cannot know it.
    unknown = minutes / np.random.default_rng(1).normal(1, 0.1, CHAPTERS)
    print(f"{CHAPTERS:,} chapters, {minutes.sum() / 60:,.0f} hours, on {ACTORS} actors")
    for name, durations in (("equal speeds", minutes), ("speeds 10 % apart", unknown)):
        bound = max(durations.sum() / ACTORS, durations.max())
        longest_first = makespan(durations[np.argsort(-minutes)], ACTORS) / bound
        as_they_come = makespan(durations, ACTORS) / bound
        print(f"  {name}: {longest_first:.4f} of the bound longest first (reach <= 1.05), "
              f"{as_they_come:.4f} as they come")  # fmt: skip


def chapter_lengths() -> np.ndarray:
    """Minutes of 1,000 chapters as LibriLight's: mean 15.8 (219,041 files), log-normal."""
    spread = 0.7
    centre = np.log(MEAN_CHAPTER_MINUTES) - spread**2 / 2
    return np.random.default_rng(0).lognormal(centre, spread, CHAPTERS)


def makespan(minutes: np.ndarray, actors: int) -> float:
    """When the last of the chapters ends, each going to the actor that is free first."""
    free = [0.0] * actors
    for duration in minutes.tolist():
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def _hole(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(main())
