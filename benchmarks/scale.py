"""What 2.8 million clips and 1,000 chapters cost before the first of them is computed.

    python -m benchmarks.scale [--quick]

index     a cache of 2.8 million clips (5,000 hours, 1.7 TB) is opened by a fresh process: seconds
          and memory. The shards are sparse files of the right sizes, the index is a real one
plan      the same process plans an epoch of 1 s windows up to its first step, and then all of it
run       what the default curriculum hears of these clips, with every window and with one of each
workers   how evenly 256 workers share an epoch: micro-batches, seconds of audio, and the read tasks
          that Ray holds at once
chapters  1,000 chapters as long as LibriLight's on 64 actors, longest first as
          `ray_jobs.moshi.chapters.plan` orders them, by a simulated clock, against the shortest
          time that is possible
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from ray_jobs.training.spans import SPAN_MICRO_BATCHES
from ttt.snac.cache.index import open_cache
from ttt.snac.cache.shard_file import CodecIdentity, ShardHeader, shard_schema
from ttt.snac.cache.shards import codes_uri, index_uri, shards_folder
from ttt.snac.geometry import TARGET_RATE, CodeGeometry
from ttt.snac.train.curriculum import CurriculumConfig
from ttt.snac.train.windows import WindowPlan, WindowShape, WindowsPerClip
from ttt.training.micro_batches import BatchId, rank_micro_batches

GEOMETRY = CodeGeometry.preset("snac_24khz")
CLIPS, CLIPS_PER_SHARD, MEAN_SECONDS = 2_800_000, 1_000, 6.43
WORKERS, STEPS_AT_ONCE = 256, 64
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
    print(f"  an epoch's first step   {found['first_seconds']:.2f} s    (reach < 2)")
    print(f"  memory of the plan      {found['plan_mb']:.0f} MB")
    print(f"  all of its windows      {found['windows']:,} in "
          f"{found['windows_cpu_seconds']:.1f} s of CPU time")  # fmt: skip
    print(f"{WORKERS} workers, one epoch of 1 s windows")
    print(f"  steps                   {found['steps']:,}")
    print(f"  micro-batches each      {found['least']:,} to {found['most']:,}")
    print(
        f"  audio each, against the mean: {found['audio_least']:.4f} to {found['audio_most']:.4f}"
    )
    print(f"  read tasks at once      {SPAN_MICRO_BATCHES:,}")
    for name, run in found["runs"].items():
        print(f"the default curriculum, windows_per_clip {name}: {run['steps']:,} steps, "
              f"{run['hours']:,.0f} hours, of which by epoch of each length")  # fmt: skip
        for seconds, epoch in run["epochs"].items():
            print(f"  {seconds} s: {epoch['windows']:,} windows, {epoch['hours']:,.0f} hours "
                  f"({epoch['share']:.1%})")  # fmt: skip
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
    """Open the cache and plan an epoch, in this process; sizes in MB of resident memory."""
    before, began = _resident_mb(), time.perf_counter()
    cache = open_cache(uri)
    plan = WindowPlan(
        cache.catalogue.n_coarse, cache.catalogue.n_samples, GEOMETRY, REACH_SAMPLES_48K, seed=0
    )
    shape = WindowShape(GEOMETRY.tokens(1.0, "floor_total")[0], 2, 1, WORKERS, "length")
    found: dict[str, Any] = {"open_seconds": time.perf_counter() - began}
    found["open_mb"] = _resident_mb() - before
    before, began = _resident_mb(), time.perf_counter()
    plan.windows(shape, BatchId(epoch=1, step=0, micro=0))
    found["first_seconds"] = time.perf_counter() - began
    found["plan_mb"] = _resident_mb() - before
    steps, began = plan.steps(shape), time.process_time()
    # Many steps of the same windows in one micro-batch: of a step, each worker has one.
    at_once = dataclasses.replace(
        shape, clips_per_micro_batch=WORKERS * STEPS_AT_ONCE, micro_batches_per_step=1
    )
    audio = np.zeros(WORKERS, np.int64)
    for step in range(plan.steps(at_once)):
        windows = plan.windows(at_once, BatchId(epoch=1, step=step, micro=0))
        audio += windows.valid_samples.reshape(-1, WORKERS).sum(axis=0)
    found["windows_cpu_seconds"] = time.process_time() - began
    shares = [len(rank_micro_batches(rank, WORKERS, WORKERS)) * steps for rank in range(WORKERS)]
    return found | {
        "windows": plan.count(shape),
        "steps": steps,
        "least": min(shares),
        "most": max(shares),
        "audio_least": float(audio.min() / audio.mean()),
        "audio_most": float(audio.max() / audio.mean()),
        "runs": {
            str(choice): default_run(plan, CurriculumConfig(windows_per_clip=choice))
            for choice in get_args(WindowsPerClip)
        },
    }


def default_run(plan: WindowPlan, config: CurriculumConfig) -> dict[str, Any]:
    """Steps and hours of the whole run, and an epoch of each segment length."""
    total, audio, epochs, steps = 0.0, plan.audio_samples(), {}, 0
    for stage in config.stages:
        shape = config.shape(stage.first_epoch, GEOMETRY)
        heard = plan.heard_samples(shape, stage.first_epoch)
        hours, repeats = heard / TARGET_RATE / 3600, stage.last_epoch - stage.first_epoch + 1
        total += repeats * hours
        steps += repeats * plan.steps(shape)
        epochs[f"{stage.segment_seconds:g}"] = {
            "windows": plan.count(shape),
            "hours": hours,
            "share": heard / audio,
        }
    return {"steps": steps, "hours": total, "epochs": epochs}


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
    """Minutes of 1,000 chapters as LibriLight's, log-normal; its 57,706 hours in 219,041 files are
    15.8 in the mean."""
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
