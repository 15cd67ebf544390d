"""How fast windows reach the training loop, and in how much memory.

    python -m benchmarks.data_path [--quick]

Three measurements on caches of random audio in a temporary folder, in a warm page cache, on at
most two cores; rounds of the compared ways alternate and the figures are medians over rounds.

in process  1 s windows as int16 batches, one thread, against copying random windows of a mapped
            file into a reused int16 buffer of the same size: what the machine can do at most
through Ray 1 s windows to a loop that only counts them, in batches of 32, against read_parquet ->
            map_batches -> iter_torch_batches on the same files (24 times over, as many windows),
            against the original's way (each sample reads a shard's codes and the whole wav; torch's
            DataLoader with none and two processes), and against one batch per read task, two ranks
memory      anonymous memory (what the process itself holds; not the page cache that mapped files
            share) that a fresh process adds by opening a cache and streaming 300 batches, for a
            small and for a large cache
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch

from benchmarks.original_way import OriginalDataset, write_original
from ray_jobs.decoder.train.window_stream import WindowStream
from ray_jobs.runtime.connection import ray_session
from ray_jobs.training import spans
from ray_jobs.training.ray_source import RayBatchSource, batch_dataset, start_cursor
from ray_jobs.training.spans import BLOCK_BYTES
from ttt import storage
from ttt.snac.cache.index import open_cache
from ttt.snac.cache.shards import (
    Clip,
    CodecIdentity,
    build_index,
    shard_names,
    shards_folder,
    write_shard,
)
from ttt.snac.geometry import TARGET_RATE, CodeGeometry
from ttt.snac.train.window_reader import LocalWindowSource, MicroBatch, WindowReader
from ttt.snac.train.windows import WindowShape
from ttt.training.micro_batches import BatchId

GEOMETRY = CodeGeometry.preset("snac_24khz")
BATCH = 32
SHAPE = WindowShape(
    core_coarse=12, context_coarse=2, clips_per_micro_batch=BATCH, micro_batches_per_step=1
)
TWO_RANKS_SHAPE = dataclasses.replace(SHAPE, micro_batches_per_step=2)
CORE_SAMPLES = GEOMETRY.samples_48k(SHAPE.core_coarse)
EPOCHS = 1000
CODES_AND_AUDIO = ["codes_0", "codes_1", "codes_2", "audio"]
PLAIN_REPEATS = 24


def main() -> None:
    """Print the three results as one JSON object."""
    parser = argparse.ArgumentParser(description="Benchmark the data path.")
    parser.add_argument("--quick", action="store_true", help="smaller caches and fewer rounds")
    quick = parser.parse_args().quick
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cache = write_random_cache(Path(folder, "cache"), 128 if quick else 500, seconds=(3, 15))
        result = {
            "benchmark": "data_path",
            "in_process": in_process(cache, rounds=5 if quick else 15),
            "through_ray": through_ray(cache, Path(folder, "original"), rounds=1 if quick else 3),
            "memory": memory(Path(folder), 1_000 if quick else 10_000),
        }
    print(json.dumps(result))


def write_random_cache(folder: Path, clips: int, seconds: tuple[float, float]) -> str:
    """An indexed cache of noise, 250 clips a shard, lengths log-uniform between `seconds`."""
    generator = np.random.default_rng(0)
    noise = generator.integers(-20_000, 20_000, 60 * TARGET_RATE, np.int16)

    def clip(number: int) -> Clip:
        length = np.exp(generator.uniform(*np.log(seconds)))
        n_coarse = GEOMETRY.tokens(float(length))[0]
        start = int(generator.integers(len(noise) - GEOMETRY.samples_48k(n_coarse)))
        audio = noise[start : start + GEOMETRY.samples_48k(n_coarse)]
        codes = tuple(
            generator.integers(0, GEOMETRY.codebook_size, count, np.int16)
            for count in GEOMETRY.lengths(n_coarse)
        )
        return Clip(f"speaker/{number:06d}", codes, audio, len(audio))

    for shard, first in enumerate(range(0, clips, 250)):
        rows = [clip(number) for number in range(first, min(first + 250, clips))]
        uri = storage.join(shards_folder(folder), f"shard-{shard:05d}.parquet")
        write_shard(uri, rows, GEOMETRY, CodecIdentity("noise", "0" * 64))
    build_index(folder)
    return str(folder)


def _stream(cache: str, clips: int | None = None) -> WindowStream:
    """Windows of a cache, its clips repeated to make longer epochs when `clips` is given."""
    opened = open_cache(cache)
    rows = None if clips is None else np.resize(np.arange(len(opened)), clips)
    shapes = (SHAPE, TWO_RANKS_SHAPE, *[SHAPE] * EPOCHS)
    return WindowStream.of(opened, 14_000, 0, shapes, rows)


def _rates(ways: dict[str, Callable[[], Iterator[int]]], rounds: int) -> dict[str, list[float]]:
    """Windows per second of each way in alternating rounds; a way yields its batches' sizes."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            windows = sum(way())
            rates[name].append(windows / (time.perf_counter() - began))
    return rates


def _ratio(rates: dict[str, list[float]], name: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(rates[name], rates[other], strict=True))


# -- in process ------------------------------------------------------------------------------------


def in_process(cache_uri: str, rounds: int) -> dict[str, object]:
    """Windows per second of one thread, and the share of what copying alone reaches."""
    cache = open_cache(cache_uri)
    stream = _stream(cache_uri, clips=200 * BATCH)
    plan = stream.plan(cache)
    reader = WindowReader(cache, plan, reused_batches=2)
    shard = Path(shards_folder(cache_uri), shard_names(cache_uri)[0])
    mapped = np.memmap(shard, np.int16, "r", shape=shard.stat().st_size // 2)
    out = np.empty((BATCH, CORE_SAMPLES), np.int16)
    generator = np.random.default_rng(0)

    def windows() -> Iterator[int]:
        for step in range(plan.steps(SHAPE)):
            batch = BatchId(1, step, 0)
            yield len(reader.read(plan.windows(SHAPE, batch), batch).clip_ids)

    def copying() -> Iterator[int]:
        for _ in range(plan.steps(SHAPE)):
            for row, start in enumerate(generator.integers(len(mapped) - CORE_SAMPLES, size=BATCH)):
                out[row] = mapped[start : start + CORE_SAMPLES]
            yield BATCH

    ways = {"windows": windows, "mapped_copy": copying}
    _rates(ways, rounds=1)  # warms the page cache
    rates = _rates(ways, rounds)
    return {
        "windows_per_second": statistics.median(rates["windows"]),
        "mapped_copy_per_second": statistics.median(rates["mapped_copy"]),
        "ratio": _ratio(rates, "windows", "mapped_copy"),
        "reach": {"windows_per_second": 20_000, "ratio": 0.5},
    }


# -- through Ray -----------------------------------------------------------------------------------


def through_ray(cache_uri: str, original: Path, rounds: int) -> dict[str, object]:
    """Windows per second that reach a loop through Ray Data, and the other ways beside it."""
    files = [storage.join(shards_folder(cache_uri), name) for name in shard_names(cache_uri)]
    write_original(files, original)
    dataset = OriginalDataset(original, GEOMETRY, SHAPE.core_coarse)
    with ray_session(None, 2):
        stream = _stream(cache_uri, clips=PLAIN_REPEATS * len(open_cache(cache_uri)))
        cursor = start_cursor(stream)
        source = _source(batch_dataset(cursor).iterator(), cursor, stream)
        ray.data.DataContext.get_current().enable_progress_bars = False
        ranks = _start_ranks(cursor, stream)

        def ours(block_bytes: int) -> Iterator[int]:
            spans.BLOCK_BYTES = block_bytes
            yield _windows(source, 1)

        def by_two(block_bytes: int) -> Iterator[int]:
            yield sum(ray.get([rank.windows.remote(2, block_bytes) for rank in ranks]))

        def plain() -> Iterator[int]:
            table = ray.data.read_parquet(files * PLAIN_REPEATS).select_columns(CODES_AND_AUDIO)
            sliced = table.map_batches(_slice, batch_size=BATCH, batch_format="pyarrow")
            for batch in sliced.iter_torch_batches(batch_size=BATCH):
                yield len(batch["audio"])

        def originals(processes: int) -> Iterator[int]:
            loader = torch.utils.data.DataLoader(dataset, BATCH, num_workers=processes)
            for batch in loader:
                yield len(batch)

        ways = {
            "windows": lambda: ours(BLOCK_BYTES),
            "one_per_task": lambda: ours(1),
            "two_ranks": lambda: by_two(BLOCK_BYTES),
            "two_ranks_one_per_task": lambda: by_two(1),
            "read_parquet": plain,
            "original": lambda: originals(0),
            "original_by_two": lambda: originals(2),
        }
        _rates(ways, rounds=1)  # starts workers, warms the page cache
        rates = _rates(ways, rounds)
    medians = {f"{name}_per_second": statistics.median(values) for name, values in rates.items()}
    return {
        **medians,
        "ratio_to_read_parquet": _ratio(rates, "windows", "read_parquet"),
        "ratio_to_original": _ratio(rates, "windows", "original"),
        "ratio_to_original_by_two": _ratio(rates, "windows", "original_by_two"),
        "ratio_to_one_per_task": _ratio(rates, "windows", "one_per_task"),
        "two_ranks_ratio_to_one_per_task": _ratio(rates, "two_ranks", "two_ranks_one_per_task"),
        "reach": {"to_read_parquet": 8, "to_original": 40, "to_one_per_task": 2.5},
    }


def _start_ranks(cursor: str, stream: WindowStream) -> list[Any]:
    """Two actors that count their rank's windows, each with an equal share of the dataset."""
    shares = batch_dataset(cursor).streaming_split(2, equal=True)
    actor: Any = ray.remote(num_cpus=0)(_Rank)
    return [actor.remote(share, cursor, stream, rank, 2) for rank, share in enumerate(shares)]


class _Rank:
    def __init__(self, *source: Any) -> None:
        torch.set_num_threads(1)
        self._source = _source(*source)

    def windows(self, epoch: int, block_bytes: int) -> int:
        spans.BLOCK_BYTES = block_bytes
        return _windows(self._source, epoch)


def _source(
    batches: Any, cursor: str, stream: WindowStream, *ranks: int
) -> RayBatchSource[MicroBatch]:
    """Each epoch by an execution of its own, so that its start counts."""
    plan = stream.plan(open_cache(stream.cache_uri))
    span = plan.count(SHAPE) // BATCH
    return RayBatchSource(batches, cursor, stream, *ranks, span_micro_batches=span)


def _windows(source: RayBatchSource[MicroBatch], epoch: int) -> int:
    return sum(len(batch.clip_ids) for step in source.step_batches(epoch) for batch in step)


def _slice(table: pa.Table) -> dict[str, np.ndarray]:
    """A random window of every clip, as anyone would write it."""
    generator = np.random.default_rng()
    codes, audio = [], []
    for row in range(len(table)):
        scales = [table[f"codes_{scale}"][row].values.to_numpy() for scale in range(3)]
        samples = np.frombuffer(table["audio"][row].as_buffer(), np.int16)
        start = int(generator.integers(len(scales[0]) - SHAPE.core_coarse + 1))
        spans = GEOMETRY.lengths(start), GEOMETRY.lengths(start + SHAPE.core_coarse)
        codes.append(np.concatenate([s[a:b] for s, a, b in zip(scales, *spans, strict=True)]))
        first = GEOMETRY.samples_48k(start)
        audio.append(samples[first : first + CORE_SAMPLES])
    return {"codes": np.stack(codes), "audio": np.stack(audio)}


# -- memory ----------------------------------------------------------------------------------------


def memory(folder: Path, clips: int) -> dict[str, object]:
    """Anonymous memory that streaming adds, for caches of 100 and of `clips` clips."""
    added = {}
    for count in (100, clips):
        cache = write_random_cache(folder / f"memory{count}", count, seconds=(1.5, 2.5))
        # A fresh process: what the last one allocated would hide growth.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            added[count] = pool.submit(_memory_of_streaming, cache).result()
    return {
        "added_mib": {str(count): size / 2**20 for count, size in added.items()},
        "growth": added[clips] / added[100] - 1,
        "reach": {"growth": 0.05},
    }


def _memory_of_streaming(cache_uri: str) -> int:
    torch.set_num_threads(1)
    before = _anonymous_bytes()
    cache = open_cache(cache_uri)
    stream = _stream(cache_uri)
    plan = stream.plan(cache)
    # Fresh buffers would add what the allocator happens to keep of them, 10 to 80 MiB.
    reader = WindowReader(cache, plan, reused_batches=8)
    source = LocalWindowSource(reader, plan, stream.shapes)
    batches = 0
    for epoch in range(1, EPOCHS + 1):
        for _ in source.step_batches(epoch):
            batches += 1
            if batches == 300:
                return _anonymous_bytes() - before
    raise ValueError(f"{cache_uri}: too few clips for 300 batches")


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/smaps_rollup: no Anonymous line")


if __name__ == "__main__":
    main()
