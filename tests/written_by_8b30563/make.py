"""Write, with the code of commit 8b30563, what every later commit must read and continue.

    PYTHONPATH=CHECKOUT_OF_8b30563 python tests/written_by_8b30563/make.py EMPTY_FOLDER

Everything is made by that commit's own commands, from random weights and made audio. Paths
in text files become @ROOT@, which the tests replace. Ten minutes on two cores.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml

from tests.nano_cache import write_nano_cache, write_nano_codec
from ttt.layers import TTTConfig
from ttt.moshi import insert_ttt, save_ttt, tiny_lm
from ttt.synthetic.pairs import say_by_arithmetic, write_fixtures

SHAPE = {"dim": 32, "num_layers": 2, "depformer_dim": 16, "context": 20, "text_card": 64}
TEXT = {".yaml", ".json", ".jsonl", ".csv", ".md"}
RELATIVE = re.compile(
    r"^( *(?:output|decoder|codec|audio|ttt|root)): "
    r"((?:chapters|pairs|all|evaluation|cached|train|codec|audio|ttt|benchmarks)(?:/.*)?)$",
    re.MULTILINE,
)
"""What the commands below name relatively, in the config.yaml of their folders."""


def main(root: Path) -> None:
    root.mkdir(parents=True)
    os.chdir(root)
    configs = Path(sys.modules["tests.nano_cache"].__file__ or "").parents[1] / "configs"
    write_nano_codec(root / "codec")
    write_nano_cache(root / "cache", 7)
    _write_audio(root / "audio")
    _codec_commands(root)
    _moshi_commands(root, configs)
    _pack(root)


def _pack(root: Path) -> None:
    """files.tar.xz beside the folder: without pages and pictures, every path under @ROOT@."""
    for name in ("tStoryCloze", "sLM21/syntactic"):
        shutil.rmtree(root / "benchmarks" / name)
    for folder in list(root.rglob("plots")):
        shutil.rmtree(folder)
    for path in [path for path in root.rglob("*") if path.is_file()]:
        if path.name in (".lock", "report.html"):
            path.unlink()
        elif path.suffix in TEXT:
            text = path.read_text().replace(str(root), "@ROOT@")
            path.write_text(RELATIVE.sub(r"\1: @ROOT@/\2", text))
    with tarfile.open(root.with_name("files.tar.xz"), "w:xz") as archive:
        archive.add(root, ".")


def _job(name: str, *arguments: str, code: int = 0) -> None:
    print("$", name, *arguments, flush=True)
    done = subprocess.run([sys.executable, "-m", f"ray_jobs.{name}", *arguments])
    assert done.returncode == code, done.returncode


def _write_audio(folder: Path) -> None:
    """Two speakers' folders, three clips of noise that fades, and a file that is no audio."""
    random = np.random.default_rng(1)
    for name, samples in (("a/0", 30_000), ("a/1", 41_000), ("b/0", 36_000)):
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        audio = random.normal(0, 0.1, samples) * np.linspace(1, 0.2, samples)
        soundfile.write(path, audio, 48_000, subtype="PCM_16")
    (folder / "broken.wav").write_text("this is no audio")


def _codec_commands(root: Path) -> None:
    cache = {
        "input": {"kind": "folder", "audio": "audio"},
        "output": "cached",
        "codec": {"name": str(root / "codec")},
        "clips_per_shard": 2,
    }
    (root / "cache.yaml").write_text(yaml.safe_dump(cache))
    _job("cache_codes", "--config", "cache.yaml")
    train = {
        "run": "train",
        "codec": str(root / "codec"),
        "data": {"train": str(root / "cache"), "validation_share": 0.25},
        "curriculum": {
            "epochs": 3,
            "stages": [
                {"first_epoch": 1, "last_epoch": 2, "segment_seconds": 0.18, "clips_per_step": 2},
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
    (root / "train.yaml").write_text(yaml.safe_dump(train))
    _job("train_decoder", "--config", "train.yaml")
    _killed_in_mid_epoch(root)
    for folder in sorted((root / "train" / "checkpoints").glob("step-*"))[:-1]:
        shutil.rmtree(folder)
    evaluate = ("--config", str(_configs() / "evaluate_decoder.yaml"), "codec=codec")
    small = ("bootstrap.resamples=100", "report.examples=1", "report.example_seconds=0.25")
    _job(
        "evaluate_decoder",
        *evaluate,
        *small,
        "decoder=train/export",
        "data.audio=audio",
        "output=evaluation",
        "min_coverage=0.5",
        "report.write_card=false",
    )
    decode = ("--config", str(_configs() / "decode.yaml"), "decoder=train/export", "input=cache")
    _job("decode_codes", *decode, "output=decoded", "limit=1")
    # The sweep's trials are trainings of their own.
    tune = {
        "base": "train.yaml",
        "run": "tune",
        "space": {"optim.peak_lr": {"loguniform": [1.0e-4, 1.0e-3]}},
        "search": {"kind": "random", "trials": 2},
        "curriculum": {
            "epochs": 2,
            "stages": [
                {"first_epoch": 1, "last_epoch": 2, "segment_seconds": 0.18, "clips_per_step": 2}
            ],
        },
        "checkpoint": {"every_steps": 100, "keep_last": 1},
        "cluster": {"num_workers": 1},
    }
    (root / "tune.yaml").write_text(yaml.safe_dump(tune))
    _job("tune_decoder", "--config", "tune.yaml", "scheduler.kind=none")


def _killed_in_mid_epoch(root: Path) -> None:
    """The same training, killed after its third step: two steps make an epoch."""
    run = root / "train_cut"
    arguments = ["ray_jobs.train_decoder", "--config", "train.yaml", "run=train_cut"]
    process = subprocess.Popen([sys.executable, "-m", *arguments])
    while not (run / "checkpoints" / "step-00000003" / "COMPLETE").exists():
        time.sleep(0.002)
        assert process.poll() is None
    process.kill()
    process.wait()
    whole = sorted(marker.parent for marker in (run / "checkpoints").glob("step-*/COMPLETE"))
    assert whole[-1].name == "step-00000003", "too late; run again"
    shutil.rmtree(run / "checkpoints" / "step-00000001")


def _configs() -> Path:
    return Path(sys.modules["tests.nano_cache"].__file__ or "").parents[1] / "configs"


def _moshi_commands(root: Path, configs: Path) -> None:
    lm = tiny_lm(**SHAPE)
    layers = TTTConfig(dim=SHAPE["dim"], num_heads=4, mini_batch_size=8)
    insert_ttt(lm, [1], layers, gate=0.8, generator=torch.Generator().manual_seed(0))
    save_ttt(lm, root / "ttt")
    small = (f"model.lm_kwargs={json.dumps(SHAPE)}", "model.ttt=ttt", "chunk=16")
    summary = (
        "summary={positions: [50, 100], window_frames: 40, min_slope_frames: 20, resamples: 50}"
    )
    made = "synthetic={chapters: 6, speakers: 6, frames: 130}"
    _job(
        "evaluate_chapters",
        "--config",
        str(configs / "chapters_tiny_cpu.yaml"),
        *small,
        summary,
        "data=null",
        made,
        "streams.other=masked",
        "verify_spans=1",
        "output=chapters",
    )
    write_fixtures(root / "benchmarks", say_by_arithmetic)
    for name in ("sStoryCloze", "salmon"):
        shutil.rmtree(root / "benchmarks" / name, ignore_errors=True)
    _job(
        "evaluate_pairs",
        "--config",
        str(configs / "pairs_tiny_cpu.yaml"),
        *small,
        "tasks.swuggy.root=benchmarks/sLM21/lexical",
        "tasks.swuggy.max_pairs=8",
        *(f"tasks.{name}=null" for name in ("sblimp", "tstory", "sstory", "salmon")),
        "pairs_per_shard=4",
        "summary.resamples=50",
        "output=pairs",
    )
    _job(
        "evaluate_all",
        "--config",
        str(configs / "evaluate_all.yaml"),
        "output=all",
        "model.weights=tiny",
        "model.mimi=tiny",
        "model.dtype=float32",
        *small[:2],
        "cluster.gpus_per_worker=0",
        "chapters.data=null",
        "chapters.synthetic={chapters: 2, speakers: 2, frames: 60}",
        "chapters.streams.other=masked",
        "chapters.summary={positions: [30], window_frames: 20, resamples: 50}",
        "pairs.tasks.swuggy.root=benchmarks/sLM21/lexical",
        "pairs.tasks.swuggy.max_pairs=4",
        "pairs.summary.resamples=50",
        *(f"pairs.tasks.{name}=null" for name in ("sblimp", "tstory", "sstory", "salmon")),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
