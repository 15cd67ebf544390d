"""How fast pairs are scored: in batches, and on two workers.

    python -m benchmarks.pairs [--quick]

Random tiny models and made recordings. Batching is measured in CPU time of one thread. Two Ray
actors and two bare processes run the same class on the same shards, with models loaded and codes
cached on both sides before the clock starts; rounds of the two alternate, and ratios are medians of
the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_TORCH_COMPILE", "1")

import numpy as np
import ray
import torch

from ray_jobs.config.load import load_config
from ray_jobs.moshi.pairs.config import EvaluatePairsConfig
from ray_jobs.moshi.pairs.plan import WorkItem, make_plan
from ray_jobs.moshi.pairs.worker import PairWorker
from ray_jobs.runtime.actors import over_actors
from ray_jobs.runtime.connection import ray_session
from ttt.eval.pairs.score import Recording, Scoring, score
from ttt.layers import TTTConfig
from ttt.moshi import insert_ttt, tiny_lm
from ttt.synthetic.pairs import say_by_arithmetic, write_fixtures

WORDS, STORIES = (6, 16), (120, 260)
"""Frames of the shortest and the longest recording."""


def main() -> None:
    """Print one table after the other."""
    parser = argparse.ArgumentParser(description="How fast pairs are scored.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 3 if parser.parse_args().quick else 7
    torch.set_num_threads(1)
    print("recordings  TTT   one by one/s  in batches/s  ratio (reach 4)  largest difference")
    for name, lengths, items in (("words", WORDS, 96), ("stories", STORIES, 24)):
        for with_ttt in (False, True):
            print(batching(name, lengths, items, with_ttt, rounds), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        config = pairs_config(Path(folder))
        print(two_workers(config, rounds), flush=True)


def batching(name: str, lengths: tuple[int, int], items: int, with_ttt: bool, rounds: int) -> str:
    """One line of the table."""
    lm = tiny_lm()
    if with_ttt:
        insert_ttt(lm, (1, 2), TTTConfig(dim=128, num_heads=4))
    draw = np.random.default_rng(0)
    recordings = [
        Recording(draw.integers(0, lm.card, (8, frames)).astype(np.int16))
        for frames in draw.integers(lengths[0], lengths[1], items)
    ]
    ways = {1: _scoring(1), 32: _scoring(32)}
    speeds: list[dict[int, float]] = []
    for _ in range(rounds):
        speeds.append({})
        for batch, how in ways.items():
            began = time.process_time()
            score(lm, recordings, how)
            speeds[-1][batch] = items / (time.process_time() - began)
    alone, together = (
        [np.array(each.nll_sum) / each.n_cb for each in score(lm, recordings, how)]  # pyright: ignore[reportAttributeAccessIssue]
        for how in ways.values()
    )
    difference = max(np.abs(a - b).max() for a, b in zip(alone, together, strict=True))
    slow, fast = (statistics.median(each[batch] for each in speeds) for batch in ways)
    ratio = statistics.median(each[32] / each[1] for each in speeds)
    return (
        f"{name:10}  {'half' if with_ttt else '-':4}  {slow:12.1f}  {fast:12.1f}  {ratio:15.1f}  "
        f"{difference:18.1e}"
    )


def two_workers(config: EvaluatePairsConfig, rounds: int) -> str:
    """Ray's share of the speed of two processes that do nothing else."""
    plan = make_plan(config)
    ratios = []
    with (
        ProcessPoolExecutor(
            2, mp_context=get_context("spawn"), initializer=_load, initargs=(plan.config,)
        ) as pool,
        ray_session(None, 2),
    ):
        list(pool.map(_score, plan.work))  # Models are loaded and codes cached after this.
        for _ in range(rounds):
            bare = _seconds(lambda: list(pool.map(_score, plan.work)))
            actor: Any = ray.remote(num_cpus=1)(PairWorker)
            ready: list[Any] = [actor.remote(plan.config, None) for _ in "12"]
            ray.get([actor.score.remote(plan.work[0]) for actor in ready])
            ratios.append(bare / _seconds(lambda actors=ready: _dispatch(actors, plan.work)))
    return (
        f"two actors against two bare processes, {len(plan.work)} shards: "
        f"{statistics.median(ratios):.2f} (reach 0.95; {min(ratios):.2f} to {max(ratios):.2f})"
    )


def pairs_config(folder: Path) -> EvaluatePairsConfig:
    """A run on made recordings below `folder`, of a model that takes its time."""
    roots = write_fixtures(folder / "data", say_by_arithmetic)
    root = Path(__file__).resolve().parents[1]
    where = [f"tasks.{name}.root={path}" for name, path in roots.items()]
    config = load_config(EvaluatePairsConfig, root / "configs" / "pairs_tiny_cpu.yaml", where)
    # Large enough that a shard takes half a second, as real ones take longer still.
    model = replace(config.model, lm_kwargs={"dim": 512, "num_layers": 12, "num_heads": 8})
    return replace(config, output=str(folder / "run"), model=model, pairs_per_shard=8)


def _scoring(batch: int) -> Scoring:
    streams = {"text_stream": "masked", "other_stream": "masked", "stream": "moshi"}
    return Scoring(streams=streams, chunk=64, batch_items=batch, batch_frames=4096)


def _dispatch(actors: list[Any], shards: Sequence[WorkItem]) -> None:
    for _ in over_actors(actors.pop, lambda a, work: a.score.remote(work), shards, actors=2):
        pass


_worker: Any = None


def _load(config: EvaluatePairsConfig) -> None:
    global _worker
    _worker = PairWorker(config, None)


def _score(work: WorkItem) -> int:
    return _worker.score(work)


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
