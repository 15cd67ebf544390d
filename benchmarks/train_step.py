"""What Ray costs a training step, and how long training waits for its data.

    python -m benchmarks.train_step [--wait]       (--wait: the second figure alone)
    python -m benchmarks.train_step --against TREE (the third)

1. The same loop, model and batches (in memory) in a plain process and in one Ray Train worker.
   They run in turn on the same core, ten steps each, so that both see the same machine; the figure
   is the ratio of their times per step with its interval over the turns. Reach: <= 1.03.
2. A training with the tiny codec on two cores, one of them the worker's, the other for Ray Data's
   read tasks: the share of the step time spent waiting for batches, over the whole run, the start
   of every epoch included, and with those first steps left out. Reach: <= 2 %.
3. The step of a plain process of this tree and of another, a checkout of an earlier commit, in
   turns on one core: the median of the ratios of their times and the range over the turns.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ray_jobs.runtime.connection import ray_session
from ttt.snac.cache.shards import Clip, CodecIdentity, build_index, write_shard
from ttt.snac.geometry import CodeGeometry
from ttt.snac.load import load_codec
from ttt.snac.model import Decoder48k
from ttt.snac.train.config import LossConfig
from ttt.snac.train.curriculum import Epoch
from ttt.snac.train.decoder import DecoderTrainee
from ttt.snac.train.optim import OptimConfig
from ttt.snac.train.step import DecoderRecipe
from ttt.snac.train.window_reader import MicroBatch
from ttt.snac.train.windows import WindowShape
from ttt.statistics.intervals import clustered_ratio_interval
from ttt.training.config import CheckpointConfig
from ttt.training.hooks import Hook, StepRecord
from ttt.training.loop import LoopSettings, train
from ttt.training.micro_batches import BatchId
from ttt.training.ranks import Communicator, ProcessGroup, SingleProcess

TURNS, STEPS_PER_TURN = 12, 10
SHAPE = WindowShape(
    core_coarse=11, context_coarse=2, clips_per_micro_batch=4, micro_batches_per_step=1
)
CLIPS = 384


def main() -> None:
    """Print both figures as JSON lines."""
    if sys.argv[1:2] == ["--against"]:
        print(json.dumps(step_against(Path(sys.argv[2]))))
        return
    wait_alone = sys.argv[1:] == ["--wait"]
    if len(sys.argv) > 1 and not wait_alone:  # the plain process of the first figure
        run_in_turns(SingleProcess(), Path(sys.argv[1]), side=0)
        return
    with tempfile.TemporaryDirectory() as folder:
        if not wait_alone:
            print(json.dumps(step_time(Path(folder, "steps"))), flush=True)
        print(json.dumps(data_wait(Path(folder, "wait"))), flush=True)


def step_time(folder: Path) -> dict[str, Any]:
    """Time per step in a Ray Train worker over that in a plain process."""
    folder.mkdir()
    plain = subprocess.Popen([sys.executable, "-m", "benchmarks.train_step", str(folder)])
    try:
        _fit_one_worker(folder)
        if plain.wait(timeout=60) != 0:
            raise RuntimeError("the plain process failed")
    finally:
        plain.kill()
    turns = [json.loads((folder / f"side{side}.json").read_text()) for side in (0, 1)]
    ours, theirs = (np.array(turns[side][1:]) for side in (1, 0))  # the first turn warms up
    interval = clustered_ratio_interval(ours, theirs, range(len(ours)), 0, 2000, "turn")
    return {
        "benchmark": "step time, Ray Train / plain process",
        "plain_seconds": float(np.median(theirs)),
        "ray_seconds": float(np.median(ours)),
        "ratio": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "turns": len(ours),
        "reach": 1.03,
    }


def step_against(tree: Path) -> dict[str, Any]:
    """Time per step here over that in another tree, whose own code takes its turns."""
    code = (
        "import pathlib, sys; from benchmarks import train_step as it; "
        "it.run_in_turns(it.SingleProcess(), pathlib.Path(sys.argv[1]), int(sys.argv[2]))"
    )
    with tempfile.TemporaryDirectory() as folder:
        sides = [
            subprocess.Popen([sys.executable, "-c", code, folder, str(side)], cwd=root)
            for side, root in enumerate((tree, Path(__file__).parents[1]))
        ]
        try:
            if any(side.wait(timeout=1200) != 0 for side in sides):
                raise RuntimeError(f"one of the two processes failed; see its words above ({tree})")
        finally:
            for side in sides:
                side.kill()
        turns = [json.loads(Path(folder, f"side{side}.json").read_text()) for side in (0, 1)]
    theirs, ours = (np.array(side[1:]) for side in turns)  # the first turn warms up
    ratios = ours / theirs
    return {
        "benchmark": "step time, this tree / another, plain process, one core",
        "other_seconds": float(np.median(theirs)),
        "seconds": float(np.median(ours)),
        "ratio": float(np.median(ratios)),
        "low": float(ratios.min()),
        "high": float(ratios.max()),
        "turns": len(ours),
        "reach": 0.67,
    }


def run_in_turns(group: Communicator, folder: Path, side: int) -> None:
    """Run the loop, a turn at a time, and leave the mean time of a step of each turn."""
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    steps = TURNS * STEPS_PER_TURN
    epoch = Epoch(
        number=1,
        phase=2,
        segment_seconds=1.0,
        shape=SHAPE,
        steps=steps,
        first_step=0,
        phase_first_step=0,
        phase_steps=steps,
    )
    settings = LoopSettings(
        run=str(folder / f"run{side}"),
        plan={},
        checkpoint=CheckpointConfig(every_steps=None, every_minutes=None),
    )
    model = Decoder48k.from_snac(load_codec("tiny").model)
    recipe = DecoderRecipe(seed=0, precision="float32", optim=OptimConfig(), loss=LossConfig())
    trainee = DecoderTrainee(model, recipe, [epoch], None)
    clock = _Clock()
    train(settings, trainee, _InTurns(folder, side), group, [clock])
    seconds = np.array(clock.seconds).reshape(TURNS, STEPS_PER_TURN).mean(1)
    (folder / f"side{side}.json").write_text(json.dumps(seconds.tolist()))


def data_wait(folder: Path) -> dict[str, Any]:
    """Share of the step time that one Ray Train worker waits for Ray Data."""
    _write_cache(folder / "cache")
    stages = [
        {"first_epoch": n, "last_epoch": n, "segment_seconds": float(n), "clips_per_step": 8}
        for n in (1, 2, 3, 4)
    ]
    overrides = {
        "run": folder / "run",
        "codec": "tiny",
        "data.train": folder / "cache",
        "data.validation_share": "null",
        "curriculum.epochs": 4,
        "curriculum.windows_per_clip": 1,
        "curriculum.micro_batches_per_step": 2,
        "curriculum.stages": json.dumps(stages),
        "cluster.local_cpus": 2,
        "tracking.tensorboard": "false",
        "tracking.every_steps": 1,
    }
    words = [f"{key}={value}" for key, value in overrides.items()]
    command = [sys.executable, "-m", "ray_jobs.train_decoder", *words]
    subprocess.run(command, check=True, stdout=sys.stderr)
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    if len(steps) != len(stages) * CLIPS // 8:  # a share of a part would say less than the whole
        raise RuntimeError(f"the run ended after {len(steps)} steps")
    later = [b for a, b in itertools.pairwise(steps) if a["epoch"] == b["epoch"]]
    return {
        "benchmark": "share of step time waiting for data",
        "share": _waited(steps),
        "share_without_first_steps_of_epochs": _waited(later),
        "step_seconds": statistics.median(line["step_seconds"] for line in steps),
        "steps": len(steps),
        "reach": 0.02,
    }


def _waited(steps: list[dict[str, Any]]) -> float:
    waited = sum(line["data_wait_share"] * line["step_seconds"] for line in steps)
    return waited / sum(line["step_seconds"] for line in steps)


class _Clock(Hook):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step(self, record: StepRecord) -> None:
        self.seconds.append(record.step_seconds - record.data_wait_seconds)


class _InTurns:
    """Hands out one batch again and again; before each turn it waits for the other side.

    The wait counts as waiting for data, which the clock leaves out.
    """

    def __init__(self, folder: Path, side: int) -> None:
        self._folder = folder
        self._side = side
        random = np.random.default_rng(0)
        geometry = CodeGeometry.preset("snac_24khz")
        clips, core = SHAPE.clips_per_micro_batch, SHAPE.core_coarse
        samples = geometry.samples_48k(core)
        codes = random.integers(0, 256, (clips, core + 4, geometry.codes_per_coarse))
        audio = random.normal(0, 3000, (clips, samples)).clip(-32768, 32767)
        self._batch = MicroBatch(
            id=BatchId(1, 0, 0),
            codes=torch.from_numpy(codes.astype(np.int16)),
            audio=torch.from_numpy(audio.astype(np.int16)),
            core_start=torch.full((clips,), SHAPE.context_coarse),
            valid_samples=torch.full((clips,), samples),
            clip_ids=["random"] * clips,
        )

    def step_batches(self, epoch: int, first_step: int) -> Iterator[list[MicroBatch]]:
        for turn in range(TURNS):
            mine = 2 * turn + self._side
            while mine > 0 and not self._token(mine - 1).exists():
                time.sleep(0.002)
            for _ in range(STEPS_PER_TURN):
                yield [self._batch]
            self._token(mine).touch()

    def _token(self, turn: int) -> Path:
        return self._folder / f"turn{turn}"


def _fit_one_worker(folder: Path) -> None:
    import ray.train.torch  # Not in the plain process.

    with ray_session(None, 2):
        ray.train.torch.TorchTrainer(
            _worker,
            train_loop_config={"folder": str(folder)},
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(name="benchmark", storage_path=str(folder / "ray")),
        ).fit()


def _worker(arguments: dict[str, str]) -> None:
    run_in_turns(ProcessGroup(), Path(arguments["folder"]), side=1)


def _write_cache(folder: Path) -> None:
    """Clips of 5 to 8 s with random codes of the tiny codec."""
    codec = load_codec("tiny")
    geometry = codec.geometry
    random = np.random.default_rng(0)
    clips: list[Clip] = []
    for index in range(CLIPS):
        n_coarse = int(random.integers(60, 95))
        lengths = geometry.lengths(n_coarse)
        codes = [random.integers(0, geometry.codebook_size, n).astype(np.int16) for n in lengths]
        n_samples = geometry.samples_48k(n_coarse)
        audio = random.normal(0, 3000, n_samples).clip(-32768, 32767).astype(np.int16)
        clips.append(Clip(f"clip{index}", tuple(codes), audio, n_samples))
    identity = CodecIdentity(codec.name, codec.weights_sha256)
    write_shard(folder / "shards" / "shard-00000.parquet", clips, geometry, identity)
    build_index(folder)


if __name__ == "__main__":
    main()
