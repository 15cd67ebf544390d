"""A training of eight steps that takes seconds, and what tests look at in its folder."""

from __future__ import annotations

import dataclasses
import json
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.nano_cache import write_nano_cache, write_nano_codec

ROOT = Path(__file__).parents[2]
TOTAL_STEPS = 8  # 2 + 2 + 4
WEIGHTS_AND_OPTIMIZER = ("model.safetensors", "optimizer.pt")


@dataclasses.dataclass(frozen=True)
class World:
    """A training's data and a configuration for them."""

    folder: Path
    job: str = "ray_jobs.train_decoder"
    """The command that trains."""

    @property
    def config(self) -> Path:
        return self.folder / "train.yaml"

    def main(self, run: Path, *more: str) -> int:
        """Run the command in this process; its exit code."""
        main = pkgutil.resolve_name(f"{self.job}:main")
        return main([*self.overrides(run), *more])

    def overrides(self, run: Path) -> list[str]:
        return ["--config", str(self.config), f"run={run}"]


def write_world(folder: Path, clips: int = 11) -> World:
    """A codec, a cache of clips (a quarter of them held out) and a configuration for them."""
    world = World(folder)
    write_nano_codec(world.folder / "codec")
    write_nano_cache(world.folder / "cache", clips)
    tree = {
        "run": "given on the command line",
        "codec": str(world.folder / "codec"),
        "data": {"train": str(world.folder / "cache"), "validation_share": 0.25},
        "curriculum": {
            "epochs": 3,
            "windows_per_clip": 1,
            "stages": [
                {"first_epoch": 1, "last_epoch": 2, "segment_seconds": 0.18, "clips_per_step": 4},
                {"first_epoch": 3, "last_epoch": 3, "segment_seconds": 0.26, "clips_per_step": 2},
            ],
            "context_coarse": 1,
            "micro_batches_per_step": 2,
        },
        "loss": {"n_ffts": [512, 1024]},
        "validation": {"segment_seconds": 0.26, "max_windows": 4, "examples": 1},
        "checkpoint": {"every_steps": 1, "keep_last": 99},
        "cluster": {"num_workers": 0, "local_cpus": 2},
        "tracking": {"every_steps": 1, "tensorboard": False},
    }
    world.config.write_text(yaml.safe_dump(tree))
    return world


ON_RAY = ["cluster.num_workers=2", "cluster.cpus_per_worker=0.5"]
ELASTIC = ["cluster.num_workers=2", "cluster.min_workers=1"]


def command(world: World, run: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", world.job, *world.overrides(run), *more]


def metrics(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def steps_recorded(run: Path) -> list[int]:
    return [line["step"] for line in metrics(run) if line["kind"] == "step"]


def final(run: Path) -> dict[str, bytes]:
    folder = run / "checkpoints" / f"step-{TOTAL_STEPS:08d}"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def wait_until(
    true: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 240
) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline, f"nothing happened in {seconds:g} seconds"
        time.sleep(0.05)
