"""Peak memory of hearing 100,000 frames, against 5,000.

    python -m benchmarks.chapter_memory

`record_group` hears one chapter in a fresh process, as a worker of the job does: frames and states
go to the disk on the way, the record is a parquet file at the end. The model is a small random one
with its own text, without and with TTT-MLP in the middle half of its layers. Long and short
chapters take turns; the figure is the median of the rounds' ratios.

A process's peak is read from the kernel's account of its own memory. getrusage would not do: what
it says begins with the peak of the process that started this one.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from ttt.eval.chapters.hear import EncodedChapter, StreamingOptions, record_group
from ttt.layers import TTTConfig
from ttt.moshi import insert_ttt, tiny_lm

SHORT, LONG = 5_000, 100_000
"""Frames."""
ROUNDS = 3
LISTENING = StreamingOptions(
    model="tiny",
    streams={"text_stream": "own", "other_stream": "masked", "stream": "moshi"},
    chunk=64,
    state_every_frames=2_000,
)
REACH = 1.02


def main() -> None:
    """Print a row of benchmarks/README.md for each model."""
    if len(sys.argv) > 1:  # one of the fresh processes
        print(hear(int(sys.argv[1]), with_ttt=sys.argv[2] == "ttt"))
        return
    for layers in ("none", "ttt"):
        rounds = [(_peak(SHORT, layers), _peak(LONG, layers)) for _ in range(ROUNDS)]
        ratio = statistics.median(long / short for short, long in rounds)
        short, long = (statistics.median(peaks) / 2**20 for peaks in zip(*rounds, strict=True))
        model = "tiny + TTT-MLP" if layers == "ttt" else "tiny model"
        print(
            f"| {model}, peak memory at {LONG:,} frames against {SHORT:,} | <= {REACH} | "
            f"{ratio:.3f}x ({long:.1f} and {short:.1f} MiB, {ROUNDS} rounds) |",
            flush=True,
        )


def hear(frames: int, with_ttt: bool) -> int:
    """Record a chapter of random codes; returns this process's peak in bytes."""
    torch.set_num_threads(1)
    lm = tiny_lm(context=250, padding_bias=3.0)
    if with_ttt:
        insert_ttt(lm, (1, 2), TTTConfig(dim=lm.dim, num_heads=4))
    codes = np.random.default_rng(5).integers(lm.card, size=(8, frames), dtype=np.int16)
    with tempfile.TemporaryDirectory() as folder:
        record_group(
            lm,
            [EncodedChapter("chapter", "speaker", codes)],
            LISTENING,
            silence=None,
            records_root=Path(folder),
            state_path=Path(folder, "state.safetensors"),
        )
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) * 1024


def _peak(frames: int, layers: str) -> int:
    command = [sys.executable, "-m", "benchmarks.chapter_memory", str(frames), layers]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


if __name__ == "__main__":
    main()
