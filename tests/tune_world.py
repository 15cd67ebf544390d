"""A codec, a cache of 11 clips (3 of them held out) and the configuration of a sweep over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ray_jobs.config.load import load_config
from ray_jobs.sweep.config import TuneConfig
from tests.nano_cache import write_nano_cache, write_nano_codec

EPOCHS, STEPS = 3, 6
"""Of every training here."""


def write_world(folder: Path) -> Path:
    """The configuration's path; `run` is given on the command line."""
    write_nano_codec(folder / "codec")
    write_nano_cache(folder / "cache", 11)
    tree: dict[str, Any] = {
        "run": "given on the command line",
        "codec": str(folder / "codec"),
        "data": {"train": str(folder / "cache"), "validation_share": 0.25},
        "curriculum": {
            "epochs": EPOCHS,
            "windows_per_clip": 1,
            "stages": [
                {"first_epoch": 1, "last_epoch": 3, "segment_seconds": 0.18, "clips_per_step": 4},
            ],
            "context_coarse": 1,
            "micro_batches_per_step": 2,
        },
        "loss": {"n_ffts": [512, 1024]},
        "validation": {"segment_seconds": 0.26, "max_windows": 4, "examples": 0},
        "cluster": {"num_workers": 1, "cpus_per_worker": 1, "local_cpus": 2},
        "tracking": {"every_steps": 1, "tensorboard": False},
        "space": {
            "optim.peak_lr": {"loguniform": [1e-4, 3e-2]},
            "optim.clip_norm": {"choice": [0.3, 1.0, None]},
        },
        "search": {"kind": "random", "trials": 4},
        "scheduler": {"kind": "asha", "reduction_factor": 2},
    }
    path = folder / "tune.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def load(path: Path, run: Path, *overrides: str) -> TuneConfig:
    """The sweep in the folder `run`."""
    return load_config(TuneConfig, path, [f"run={run}", *overrides])
