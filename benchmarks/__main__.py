"""`make bench`: every CPU benchmark, one after the other, each in a process of its own.

Ratios within one run count; seconds do not. Run it on a quiet machine and copy the figures into
benchmarks/README.md. `benchmarks.peers` is left out, since it installs the peers' packages.
"""

import subprocess
import sys

BENCHMARKS = (
    "data_path",
    "caching",
    "train_step",
    "gauges",
    "streaming_decode",
    "onnx_decode",
    "moshi_stream",
    "chapter_memory",
    "chapter_actors",
    "chapter_kills",
    "scale",
    "planning",
    "pairs",
    "coverage",
    "slopes",
    "launches",
)


def main() -> int:
    """Run all; returns the worst exit code."""
    codes = []
    for name in BENCHMARKS:
        print(f"== python -m benchmarks.{name}", flush=True)
        codes.append(subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
