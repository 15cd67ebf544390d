"""What Ray costs a training of TTT layers: steps under Ray Train against the loop in one process.

    python -m benchmarks.ttt_job [ROUNDS]

Both train the layers of configs/train_ttt_tiny_cpu.yaml without its LoRA (one stage of 40 steps)
from the same cache of synthetic chapters, in turn, on one thread. Printed: the median over rounds
of the ratio of median step times, their range, and the share of the time of all steps that
went into waiting for batches. Run it on a quiet machine: Ray's own processes share two cores.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS = 40
WORDS = (
    *("--config", "configs/train_ttt_tiny_cpu.yaml"),
    "lora=null",
    f"stages=[{{frames: 512, steps: {STEPS}, frames_per_step: 2048}}]",
    *(
        "validation.most_spans=1",
        "validation.span_frames=512",
        "tracking.every_steps=1",
        "tracking.tensorboard=false",
    ),
)
FIRST = 5
"""Steps before this one are left out: both start cold."""


def main(rounds: int = 5) -> None:
    """Print the ratio and the waiting."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "cache")
        _job("cache_chapters", "--config", "configs/cache_synthetic.yaml", f"output={cache}")
        ratios, waiting = [], []
        for number in range(rounds):
            times = {}
            for workers in (0, 1):
                run = Path(folder, f"run-{number}-{workers}")
                _job(
                    *("train_ttt", *WORDS, f"data.cache={cache}", f"run={run}"),
                    f"cluster.num_workers={workers}",
                )
                steps = _steps(run)
                times[workers] = statistics.median(step["step_seconds"] for step in steps)
            ratios.append(times[1] / times[0])
            spent = sum(step["step_seconds"] for step in steps)
            waited = sum(step["step_seconds"] * step["data_wait_share"] for step in steps)
            waiting.append(waited / spent)
            print(f"round {number + 1}: step {ratios[-1]:.3f}x, waiting {waiting[-1]:.2%}")
    print(
        f"step under Ray Train to the plain one: {statistics.median(ratios):.3f}x "
        f"({min(ratios):.3f} to {max(ratios):.3f}), reach <= 1.03; waiting for data: "
        f"{statistics.median(waiting):.2%} ({min(waiting):.2%} to {max(waiting):.2%}), reach <= 2 %"
    )


def _steps(run: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "step" and line["step"] >= FIRST]


def _job(name: str, *words: str) -> None:
    command = [sys.executable, "-m", f"ray_jobs.{name}", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
