"""Caching through Ray against a plain loop, and from parquet and tar against a folder.

    python -m benchmarks.caching [codec]

Everything runs on one core: this process pins itself and with it the Ray that it starts. The
plain loop reads, resamples and encodes file after file and keeps nothing; the job also batches,
writes shards and keeps its records. The job's clock runs from the first shard's begin to the last
shard's end, so starting Ray and loading the codec count on neither side, Ray's work between
shards does. Rounds alternate; the figure is the median of their ratios. On a machine that others
use, the ratio of CPU times (encoding process alone) is the steadier one and is printed beside it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ray_jobs import cache_codes
from ttt import records
from ttt.snac.cache.encode import ClipEncoder
from ttt.snac.cache.inputs import QualityConfig
from ttt.snac.cache.sources import list_folder, prepare_recording
from ttt.snac.config import EncodeConfig
from ttt.snac.load import load_codec
from ttt.synthetic.voice import write_corpus

CLIPS = 60
CLIPS_PER_SHARD = 15
ROUNDS = 3
ROW_GROUP = 100
"""What `datasets` writes for columns of audio."""
REACH = 0.9


def main() -> None:
    """Print the rates (times real time, one core) and their ratio as JSON."""
    codec = sys.argv[1] if len(sys.argv) > 1 else "tiny"
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder, "audio")
        write_corpus(audio, clips=CLIPS, seed=0)
        inputs = {"folder": audio, **_packed(audio, Path(folder))}
        rounds: dict[str, list[Rate]] = {name: [] for name in ("plain", *inputs)}
        for number in range(ROUNDS):
            rounds["plain"].append(_plain_loop(codec, audio))
            for kind, where in inputs.items():
                cache = Path(folder, f"{kind}-cache{number}")
                rounds[kind].append(_job(codec, kind, where, cache))
    result = {
        "benchmark": "caching",
        "codec": codec,
        "x_real_time": {
            name: statistics.median(rate.wall for rate in rates) for name, rates in rounds.items()
        },
        "folder_against_plain_loop": _ratio(rounds["folder"], rounds["plain"]),
        "parquet_against_folder": _ratio(rounds["parquet"], rounds["folder"]),
        "tar_against_folder": _ratio(rounds["tar"], rounds["folder"]),
        "reach": REACH,
    }
    print(json.dumps(result, indent=1))


class Rate(NamedTuple):
    """Seconds of audio per second of the clock, and per second of the encoding process's CPU."""

    wall: float
    cpu: float


def _ratio(ours: list[Rate], theirs: list[Rate]) -> dict[str, float | list[float]]:
    """The medians of a round's ratios, by the clock and by CPU time, and all by CPU time."""
    by_wall = [mine.wall / other.wall for mine, other in zip(ours, theirs, strict=True)]
    by_cpu = [mine.cpu / other.cpu for mine, other in zip(ours, theirs, strict=True)]
    return {
        "by_clock": statistics.median(by_wall),
        "by_cpu_time": statistics.median(by_cpu),
        "rounds_by_cpu_time": by_cpu,
    }


def _packed(audio: Path, folder: Path) -> dict[str, Path]:
    """The same files as rows of a parquet file, and as members of a tar: a folder of each."""
    clips = sorted(path for path in audio.rglob("*") if path.is_file())
    for kind in ("parquet", "tar"):
        (folder / kind).mkdir()
    rows = [{"audio": {"bytes": clip.read_bytes(), "path": clip.name}} for clip in clips]
    pq.write_table(
        pa.Table.from_pylist(rows), folder / "parquet" / "a.parquet", row_group_size=ROW_GROUP
    )
    with tarfile.open(folder / "tar" / "a.tar", "w") as archive:
        for clip in clips:
            archive.add(clip, arcname=str(clip.relative_to(audio)))
    return {"parquet": folder / "parquet", "tar": folder / "tar"}


def _plain_loop(codec: str, audio: Path) -> Rate:
    loaded = load_codec(codec)
    encoder = ClipEncoder(loaded.model, EncodeConfig())
    began, cpu_began, seconds = time.perf_counter(), time.process_time(), 0.0
    for clip in list_folder(str(audio)):
        prepared = prepare_recording(clip, loaded.geometry, QualityConfig())
        assert prepared.source is not None
        encoder.encode([prepared.source])
        seconds += len(prepared.source) / loaded.geometry.sample_rate
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    return Rate(seconds / wall, seconds / cpu)


def _job(codec: str, kind: str, audio: Path, output: Path) -> Rate:
    words = [
        f"input={{kind: {kind}, audio: {audio}}}",
        f"output={output}",
        f"codec.name={codec}",
        f"clips_per_shard={CLIPS_PER_SHARD}",
        "cluster={num_workers: 1, read_threads: 1}",
        "cluster.local_cpus=1",
    ]
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        if cache_codes.main(words) != 0:
            raise SystemExit(log.getvalue())
    run = records.read_json(output / "summary.json")["last_run"]
    return Rate(run["times_real_time"], run["audio_seconds"] / run["encoder_cpu_seconds"])


if __name__ == "__main__":
    main()
