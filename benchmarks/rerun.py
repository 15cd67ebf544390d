"""What it costs to ask again for an evaluation in which every record is there.

    python -m benchmarks.rerun [--against TREE]

The whole command with --resume in a fresh process on one core, on pairs (204 recordings) and on the
chapters of configs/chapters_effect.yaml, not held to stepping. TREE is a checkout of another
commit, whose processes take turns with those of this tree; the figures are medians of the turns'
ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.pairs import pairs_config
from ray_jobs.config.load import dump_yaml, load_config
from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig

TURNS = 5
REACH = 0.4
HERE = Path(__file__).resolve().parents[1]


def main() -> None:
    """Print a line for pairs and one for chapters."""
    parser = argparse.ArgumentParser(description="What a rerun costs.")
    parser.add_argument("--against", metavar="TREE", type=Path, help="another checkout")
    tree: Path | None = parser.parse_args().against
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    with tempfile.TemporaryDirectory() as folder:
        chapters = load_config(
            EvaluateChaptersConfig,
            HERE / "configs" / "chapters_effect.yaml",
            [f"output={folder}/chapters", "verify_spans=0"],
        )
        for job, config in (
            ("evaluate_pairs", pairs_config(Path(folder))),
            ("evaluate_chapters", chapters),
        ):
            path = Path(folder, f"{job}.yaml")
            path.write_text(dump_yaml(config))
            words = [job, "--config", str(path), "cluster.num_workers=0"]
            _seconds(HERE, words)
            print(measured(words, tree), flush=True)


def measured(words: Sequence[str], tree: Path | None) -> str:
    """One line: seconds of a rerun, and their ratio to another tree's."""
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for _ in range(TURNS):
        if tree is not None:
            theirs.append(_seconds(tree, [*words, "--resume"]))
        ours.append(_seconds(HERE, [*words, "--resume"]))
    cpu, wall = (statistics.median(each) for each in zip(*ours, strict=True))
    line = f"{words[0]}, every record there: {cpu:.2f} s of CPU time, {wall:.2f} s by the clock"
    if tree is None:
        return line
    ratios = [
        [a / b for a, b in zip(*turn, strict=True)] for turn in zip(ours, theirs, strict=True)
    ]
    told = [
        f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f}) {how}"
        for each, how in zip(
            zip(*ratios, strict=True), ("by CPU time", "by the clock"), strict=True
        )
    ]
    return f"{line}; against {tree.name}: {', '.join(told)} (reach {REACH})"


def _seconds(tree: Path, words: Sequence[str]) -> tuple[float, float]:
    """CPU and clock of a command in a tree of the repository."""
    command = [sys.executable, "-m", f"ray_jobs.{words[0]}", *words[1:]]
    before, began = os.times(), time.perf_counter()
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    wall, after = time.perf_counter() - began, os.times()
    return sum(after[2:4]) - sum(before[2:4]), wall


if __name__ == "__main__":
    main()
