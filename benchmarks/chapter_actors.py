"""Two actors of the chapter evaluation on two cores, against two bare processes.

    python -m benchmarks.chapter_actors

Both hear the same made chapters with the same small random model and write the same records and
states (`record_group`). The bare processes take half of the chapters each and know nothing of Ray;
no Ray runs meanwhile. The actors get one chapter after the other from the job's dispatch, beside
Ray's own processes and the progress line. Starting and loading the model count on neither side: the
clock runs from when both are ready to the last record. Rounds alternate; the figure is the median
of their ratios. The ratio of the CPU times of the hearing processes alone is steadier on a machine
that others use, and does not see what Ray takes beside them.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch

from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.moshi.chapters.plan import Plan, WorkItem, make_plan
from ray_jobs.moshi.chapters.worker import ChapterWorker
from ray_jobs.moshi.config import ChapterModelsConfig, StreamsConfig
from ray_jobs.moshi.synthetic import SyntheticChapter, SyntheticDataConfig
from ray_jobs.runtime.actors import RemoteCount, counted_progress, over_actors
from ray_jobs.runtime.connection import ray_session
from ray_jobs.runtime.progress import Progress
from ttt.eval.chapters.hear import EncodedChapter, StreamingOptions, record_group
from ttt.eval.chapters.run import records_root
from ttt.moshi import load_ttt
from ttt.moshi.load import load_moshi

CHAPTERS, FRAMES, ROUNDS, CORES = 8, 5_000, 5, 2
PATIENCE_SECONDS = 600
REACH = 0.9


def main() -> None:
    """Print a row of benchmarks/README.md."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            alone, actors = (
                make_plan(made_chapters(Path(folder, f"{side}{number}"), CHAPTERS, FRAMES))
                for side in ("alone", "actors")
            )
            rounds.append((hear_alone(alone), _hear_with_actors(actors)))
    ratios = [ours.wall / theirs.wall for theirs, ours in rounds]
    by_cpu = [ours.cpu / theirs.cpu for theirs, ours in rounds]
    theirs, ours = (
        statistics.median(rate.wall for rate in side) for side in zip(*rounds, strict=True)
    )
    print(
        f"| two actors on two cores, against two bare processes, tiny model | >= {REACH} | "
        f"{statistics.median(ratios):.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f}; "
        f"{ours:,.0f} and {theirs:,.0f} frames/s), {statistics.median(by_cpu):.2f} by CPU time "
        f"({min(by_cpu):.2f} to {max(by_cpu):.2f}) |"
    )


class Rate(NamedTuple):
    """Frames per second of the clock, and per second of the hearing processes' CPUs."""

    wall: float
    cpu: float


def made_chapters(
    output: Path, chapters: int, frames: int, *, ttt: Path | None = None, state_every: int = 1_000
) -> EvaluateChaptersConfig:
    """The configuration of a run with the tiny model, or with that and TTT layers alone."""
    return EvaluateChaptersConfig(
        output=str(output),
        model=ChapterModelsConfig(
            weights="tiny",
            ttt=None if ttt is None else str(ttt),
            baseline=ttt is None,
            dtype="float32",
            lm_kwargs={"context": 250, "padding_bias": 3.0},
        ),
        synthetic=SyntheticDataConfig(chapters=chapters, frames=frames),
        streams=StreamsConfig(text="own", other="masked"),
        state_every_frames=state_every,
    )


def hear_alone(plan: Plan) -> Rate:
    """Hear all chapters in `CORES` processes without Ray."""
    context = get_context("spawn")
    together, cpu_seconds = context.Barrier(CORES + 1), context.SimpleQueue()
    processes = [
        context.Process(
            target=_one_process, args=(plan, plan.work[place::CORES], together, cpu_seconds)
        )
        for place in range(CORES)
    ]
    for process in processes:
        process.start()
    together.wait(PATIENCE_SECONDS)
    began = time.perf_counter()
    together.wait(PATIENCE_SECONDS)
    wall = time.perf_counter() - began
    cpu = sum(cpu_seconds.get() for _ in processes)
    for process in processes:
        process.join()
    return _rate(plan, wall, cpu)


def _one_process(
    plan: Plan, part: Sequence[WorkItem], together: Barrier, cpu_seconds: SimpleQueue[float]
) -> None:
    torch.set_num_threads(1)
    config = plan.config
    model, streams = config.model, config.streams
    loaded = load_moshi(model.weights, dtype=model.dtype, lm_kwargs=model.lm_kwargs)
    if model.ttt is not None:
        load_ttt(loaded.lm, model.ttt)
    together.wait(PATIENCE_SECONDS)
    began = time.process_time()
    for work in part:
        listening = StreamingOptions(
            model=work.variant.name,
            streams={
                "text_stream": streams.text,
                "other_stream": streams.other,
                "stream": streams.voice,
            },
            chunk=config.chunk,
            state_every_frames=config.state_every_frames,
        )
        record_group(
            loaded.lm,
            [_chapter(config, recording) for recording in work.recordings],
            listening,
            silence=None,
            records_root=records_root(config.output, work.variant.name),
            state_path=Path(config.output) / work.state_name,
        )
    cpu_seconds.put(time.process_time() - began)
    together.wait(PATIENCE_SECONDS)


def _chapter(config: EvaluateChaptersConfig, recording: Any) -> EncodedChapter:
    assert isinstance(recording, SyntheticChapter)
    return EncodedChapter(recording.chapter_id, recording.speaker, recording.codes())


def _hear_with_actors(plan: Plan) -> Rate:
    log, frames = io.StringIO(), CHAPTERS * FRAMES
    with (
        contextlib.redirect_stderr(log),
        ray_session(None, CORES),
        Progress("hearing", frames, "frames") as progress,
        counted_progress(progress, {}) as counter,
    ):
        count, actor = RemoteCount(counter), ray.remote(ChapterWorker)
        workers: list[Any] = [actor.remote(plan.config, count) for _ in range(CORES)]
        ray.get([worker.identify.remote(plan.variants[0]) for worker in workers])
        ready, before = list(workers), _cpu_seconds(workers)
        began = time.perf_counter()
        results = over_actors(
            ready.pop, lambda actor, work: actor.hear.remote(work), plan.work, actors=CORES
        )
        wall = cpu = math.nan
        for heard, (_, outcome) in enumerate(results, 1):
            if outcome.failures:
                raise RuntimeError(outcome.failures)
            if heard == len(plan.work):  # The actors are gone after the loop.
                wall = time.perf_counter() - began
                cpu = _cpu_seconds(workers) - before
    return _rate(plan, wall, cpu)


def _cpu_seconds(workers: Sequence[Any]) -> float:
    return sum(ray.get([w.__ray_call__.remote(lambda _: time.process_time()) for w in workers]))


def _rate(plan: Plan, wall: float, cpu: float) -> Rate:
    frames = sum(plan.frames(item) for work in plan.work for item in work.recordings)
    return Rate(frames / wall, frames / cpu)


if __name__ == "__main__":
    main()
