"""A training of TTT and LoRA in the tiny Moshi, of eight steps that take seconds."""

from __future__ import annotations

from pathlib import Path

import yaml

from ray_jobs import cache_chapters
from tests.ray_jobs.nano_training import World

BASE = Path(__file__).parents[2] / "ttt/assets/tiny_moshi_pair/baseline"


def write_ttt_world(folder: Path) -> World:
    """A cache of 12 synthetic chapters by four speakers, one of them held out, and a configuration
    for them."""
    cache = folder / "cache"
    made = {
        "data": None,
        "mimi": None,
        "synthetic": {
            "chapters": 12,
            "speakers": 4,
            "frames": [60, 200, 130],
            "first_seed": 0,
            "null_share": 0.5,
            "language": {"cues": 8, "cues_per_block": 2, "card": 16},
        },
        "chapters_per_shard": 5,
        "cluster": {"num_workers": 0},
    }
    (folder / "cache.yaml").write_text(yaml.safe_dump(made))
    written = cache_chapters.main(["--config", str(folder / "cache.yaml"), f"output={cache}"])
    assert written == 0
    tree = {
        "run": "given on the command line",
        "model": {"weights": str(BASE), "mimi": "synthetic", "dtype": "float32"},
        "data": {"cache": str(cache), "validation_share": 0.25},
        "ttt": {"layers": [0, 2], "kind": "linear", "num_heads": 2, "gate": 0.5},
        "lora": {"rank": 2, "targets": ["in_projs"]},
        "stages": [
            {"frames": 32, "steps": 4, "frames_per_step": 128},
            {"frames": 128, "steps": 4, "frames_per_step": 256},
        ],
        "optim": {"peak_rates": {"ttt": 1e-3, "gate": 1e-3, "lora": 1e-3}, "ema_decay": 0.9},
        "text": "pad",
        "other": "masked",
        "validation": {"span_frames": 64, "most_spans": 2, "every_steps": 2},
        "checkpoint": {"every_steps": 1, "keep_last": 99},
        "cluster": {"num_workers": 0, "local_cpus": 2},
        "tracking": {"every_steps": 1, "tensorboard": False},
    }
    world = World(folder, "ray_jobs.train_ttt")
    world.config.write_text(yaml.safe_dump(tree))
    return world
