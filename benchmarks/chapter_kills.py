"""Work lost when actors of the chapter evaluation are killed with -9.

    python -m benchmarks.chapter_kills

Two actors hear made chapters with a small random model that has TTT layers. Whoever hears a chapter
for the first time is killed at a moment drawn at random, so that every chapter is cut off once. The
job's counter of frames is replaced by one that keeps all counts: it says how far a chapter was, and
where its second hearing began. Lost are the frames between. The records are held to those of
processes that nobody disturbed, without Ray.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
import torch

from benchmarks.chapter_actors import CORES, hear_alone, made_chapters
from ray_jobs.moshi.chapters.plan import Plan, WorkItem, make_plan
from ray_jobs.moshi.chapters.worker import ChapterWorker
from ray_jobs.runtime.actors import RemoteCount, over_actors
from ray_jobs.runtime.connection import ray_session
from ttt.eval.chapters.records import read_record
from ttt.layers import TTTConfig
from ttt.moshi import insert_ttt, save_ttt
from ttt.moshi.load import load_moshi

CHAPTERS, FRAMES, STATE_EVERY = 12, 6_000, 1_000


def main() -> None:
    """Print two rows of benchmarks/README.md."""
    with tempfile.TemporaryDirectory() as folder:
        made = made_chapters(
            Path(folder, "quiet"),
            CHAPTERS,
            FRAMES,
            ttt=Path(folder, "ttt"),
            state_every=STATE_EVERY,
        )
        loaded = load_moshi("tiny", dtype="float32", lm_kwargs=made.model.lm_kwargs)
        layers = TTTConfig(dim=loaded.lm.dim, num_heads=4)
        insert_ttt(loaded.lm, (1, 2), layers, generator=torch.Generator().manual_seed(0))
        save_ttt(loaded.lm, Path(folder, "ttt"))
        quiet = make_plan(made)
        hear_alone(quiet)
        killed = make_plan(replace(made, output=str(Path(folder, "killed"))))
        lost = hear_and_kill(killed)
        differing = [
            path for path, record in _records(quiet).items() if record != _records(killed).get(path)
        ]
    print(
        f"| frames heard again after a kill -9, state every {STATE_EVERY:,} frames | <= "
        f"{STATE_EVERY:,} of one chapter | at most {max(lost):,}, median "
        f"{statistics.median(lost):,.0f} ({len(lost)} kills in {CHAPTERS} chapters of "
        f"{FRAMES:,} frames) |"
    )
    print(
        f"| records of the killed run, against those of an undisturbed one | identical | "
        f"{CHAPTERS - len(differing)} of {CHAPTERS} identical in losses, text and details but time "
        "and memory |"
    )


def hear_and_kill(plan: Plan) -> list[int]:
    """Hear all chapters, killing each one's first worker; the frames that were heard twice."""
    draw = random.Random(0)
    moments = [draw.randrange(FRAMES - STATE_EVERY) for _ in plan.work]
    with ray_session(None, CORES):
        counter: Any = ray.remote(_Killer).options(num_cpus=0).remote(moments)

        def hear(actor: Any, work: WorkItem) -> ray.ObjectRef:
            pid = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
            ray.get(counter.begin.remote(work.number, pid))
            return actor.hear.remote(work)

        start: Any = ray.remote(ChapterWorker).remote
        for work, outcome in over_actors(
            lambda: start(plan.config, RemoteCount(counter)), hear, plan.work, actors=CORES
        ):
            if outcome.failures:
                raise RuntimeError(f"{work.recordings}: {outcome.failures}")
        hearings: list[list[list[int]]] = ray.get(counter.hearings.remote())
        ray.kill(counter)
    return [_lost(first, second) for first, second in hearings]


class _Killer:
    """In the place of the job's counter: keeps every count, and kills each first hearer."""

    def __init__(self, moments: list[int]) -> None:
        self._moments = moments
        self._counts: list[list[list[int]]] = [[] for _ in moments]
        self._pids = [0 for _ in moments]

    def begin(self, work: int, pid: int) -> None:
        self._counts[work].append([])
        self._pids[work] = pid

    def count(self, work: int, frames: int) -> None:
        hearings = self._counts[work]
        is_due = len(hearings) == 1 and frames >= self._moments[work] > 0
        hearings[-1].append(frames)
        if is_due:
            self._moments[work] = 0
            os.kill(self._pids[work], signal.SIGKILL)

    def hearings(self) -> list[list[list[int]]]:
        return self._counts


def _lost(first: list[int], second: list[int]) -> int:
    """Frames counted before the kill that the second hearing counted again."""
    block = second[1] - second[0]
    return first[-1] - (second[0] - block)


def _records(plan: Plan) -> dict[str, dict[str, Any]]:
    """What the records hold, but for what two runs of the same work cannot share."""
    root, found = Path(plan.config.output) / "records", {}
    for path in sorted(root.rglob("*.parquet")):
        record = read_record(path)
        details = asdict(replace(record.details, seconds=None, peak_bytes=None))
        held = {"nll": record.nll.tobytes(), "text": record.text.tobytes()}
        found[str(path.relative_to(root))] = details | held
    return found


if __name__ == "__main__":
    main()
