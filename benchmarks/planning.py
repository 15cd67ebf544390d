"""A chapter evaluation's plan for 40,000 chapters, against a bare loop over the same headers.

    python -m benchmarks.planning [CHAPTERS]

The chapters are links to one recording of a tenth of a second in folders of speakers and books. The
loop has the paths already and calls `read_header` for each. Both run in this process, alternating,
and their CPU time is compared: on a machine that others use, the clock says little.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from ray_jobs.config.load import load_config
from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.moshi.chapters.plan import make_plan
from ttt.audio import read_header

CHAPTERS = 40_000
SPEAKERS, BOOKS = 250, 8
ROUNDS = 3
REACH = 1.2


def main() -> None:
    """Print the seconds of both, and their ratio, as JSON."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else CHAPTERS
    with tempfile.TemporaryDirectory() as folder:
        paths = _chapters(Path(folder, "chapters"), wanted)
        words = [f"data.root={folder}/chapters", f"output={folder}/out"]
        example = Path(__file__).resolve().parents[1] / "configs" / "chapters_tiny_cpu.yaml"
        config = load_config(EvaluateChaptersConfig, str(example), ["synthetic=null", *words])
        loops, plans = [], []
        for _ in range(ROUNDS):
            loops.append(_cpu_seconds(lambda: _loop(paths)))
            plans.append(_cpu_seconds(lambda: _plan(config, wanted)))
    ratios = [plan / loop for plan, loop in zip(plans, loops, strict=True)]
    result = {
        "benchmark": "planning",
        "chapters": wanted,
        "loop_cpu_seconds": statistics.median(loops),
        "plan_cpu_seconds": statistics.median(plans),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "reach": REACH,
    }
    print(json.dumps(result))


def _chapters(root: Path, wanted: int) -> list[str]:
    """Write so many chapters below `root`; returns their paths."""
    root.mkdir()
    recording = root.parent / "recording.flac"
    soundfile.write(recording, np.zeros(1_600, np.float32), 16_000)
    paths = []
    for path in itertools.islice(_names(root, -(-wanted // (SPEAKERS * BOOKS))), wanted):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.link(recording, path)
        paths.append(path)
    return paths


def _names(root: Path, chapters_per_book: int) -> Iterator[str]:
    for speaker, book in itertools.product(range(SPEAKERS), range(BOOKS)):
        for chapter in range(chapters_per_book):
            yield f"{root}/{100 + speaker}/book_{book}_of_{100 + speaker}/chapter_{chapter}.flac"


def _loop(paths: Sequence[str]) -> None:
    for path in paths:
        read_header(path)


def _plan(config: EvaluateChaptersConfig, wanted: int) -> None:
    assert len(make_plan(config).recordings) == wanted


def _cpu_seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
