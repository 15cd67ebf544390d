"""A training of TTT on recorded speech, from audio to the export that is heard, and on Ray."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from ray_jobs import cache_chapters, evaluate_chapters
from tests.ray_jobs.nano_training import ROOT, World, metrics, steps_recorded
from ttt import checkpoint
from ttt.codebook_weights import mixture
from ttt.eval.chapters.records import read_record, record_path
from ttt.eval.chapters.run import records_root
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.records import read_json

TRAINED, HELD_OUT = (f"LJ/the_art_and_craft_of_printing/printing_0{n}" for n in (1, 2))
FRAMES = {TRAINED: 660, HELD_OUT: 732}
MODEL = {"weights": "tiny", "mimi": "tiny", "dtype": "float32"}
STEPS = 40


@pytest.fixture(scope="module")
def recorded(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two chapters of one speaker as codes with the tiny Moshi's own text, one to train on."""
    folder = tmp_path_factory.mktemp("recorded")
    words = [
        f"--config={ROOT / 'configs/cache_chapters.yaml'}",
        f"data.root={shared_data / 'librilight_mini'}",
        f"output={folder / 'cache'}",
        "mimi=tiny",
        "text={weights: tiny, dtype: float32}",
        "cluster.num_workers=0",
    ]
    assert cache_chapters.main(words) == 0
    tree = {
        "run": "given on the command line",
        "model": MODEL,
        "data": {
            "cache": str(folder / "cache"),
            "validation_share": None,
            "validation_chapters": [HELD_OUT],
        },
        "ttt": {"layers": [1, 2], "kind": "linear"},
        "stages": [
            {"frames": 64, "steps": STEPS // 2, "frames_per_step": 512},
            {"frames": 256, "steps": STEPS // 2, "frames_per_step": 512},
        ],
        "optim": {"peak_rates": {"ttt": 2e-2, "gate": 2e-2}},
        "memory": {"frames_per_micro_batch": 512},
        "validation": {"span_frames": 256, "every_steps": 10},
        "checkpoint": {"every_steps": 1, "keep_last": 2},
        "cluster": {"num_workers": 1, "local_cpus": 2},
        "tracking": {"every_steps": 1, "tensorboard": False},
    }
    world = World(folder, "ray_jobs.train_ttt")
    world.config.write_text(yaml.safe_dump(tree))
    return world


@pytest.fixture(scope="module")
def whole(recorded: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run in this process."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert recorded.main(run, "cluster.num_workers=0") == 0
    return run


def test_recorded_speech_is_learnt_and_heard_as_validated(
    recorded: World, whole: Path, tmp_path: Path
) -> None:
    cache = ChapterCache.open(recorded.folder / "cache")
    assert {each.chapter_id: each.n_frames for each in cache.chapters} == FRAMES
    validations = [line for line in metrics(whole) if line["kind"] == "validation"]
    best = min(validations[1:], key=lambda line: line["loss"])
    losses = _heard(recorded, whole, tmp_path / "heard")
    window = read_json(whole / "summary.json")["window"]
    for model, row in (("ttt", "trained"), ("baseline", "base")):
        nll = losses[model, HELD_OUT]
        assert nll[window:].mean() == best["rows"][row]["beyond_window"]
        assert nll[:window].mean() == best["rows"][row]["in_window"]
    fell = losses["ttt", TRAINED].mean() - losses["baseline", TRAINED].mean()
    assert fell < -0.3, "about -0.6 nats of 4.4 where it was written"


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_stop_on_ray_and_its_resumption_change_no_byte(
    recorded: World,
    whole: Path,
    tmp_path: Path,
    ray_local: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Through Ray Data and Ray Train; the undisturbed run did without them."""
    run = tmp_path / "run"
    stopped = _stopped_midway(recorded, run)
    assert f"stopped at step {stopped}; continue with --resume" in capsys.readouterr().out
    assert recorded.main(run, "--resume") == 0
    assert steps_recorded(run) == [*range(1, STEPS + 1)]
    for name in (f"checkpoints/step-{STEPS:08d}", "export"):
        ours, theirs = ({p.name: p for p in (each / name).iterdir()} for each in (run, whole))
        assert ours.keys() == theirs.keys()
        for file in ours.keys() - {"README.md"}:  # it has the date
            assert ours[file].read_bytes() == theirs[file].read_bytes(), file
    assert (run / "spans.jsonl").read_bytes() == (whole / "spans.jsonl").read_bytes()


def _stopped_midway(world: World, run: Path) -> int:
    """Train until a SIGTERM in the middle; returns the step that the run stands at."""
    ended = threading.Event()

    def stop() -> None:
        while not ended.is_set():
            if len(steps_recorded(run)) >= STEPS // 4:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(0.05)

    watcher = threading.Thread(target=stop)
    watcher.start()
    try:
        assert world.main(run) == 0
    finally:
        ended.set()
        watcher.join()
    stopped = checkpoint.complete_steps(str(run))[-1]
    assert STEPS // 4 <= stopped < STEPS
    return stopped


def _heard(world: World, run: Path, output: Path) -> dict[tuple[str, str], np.ndarray]:
    """The loss of every frame by model and chapter, as evaluate_chapters hears the export."""
    arguments = {
        "output": str(output),
        "data": {"cache": str(world.folder / "cache"), "min_seconds": 0},
        "model": {**MODEL, "ttt": str(run / "export")},
        "max_frames": 256,
        "cluster": {"num_workers": 0},
    }
    config = output.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(arguments))
    assert evaluate_chapters.main(["--config", str(config)]) == 0
    weights = np.asarray(mixture("moshi", 8))
    return {
        (model, name): weights
        @ read_record(record_path(records_root(output, model), name)).nll.astype(np.float64)
        for model in ("ttt", "baseline")
        for name in (TRAINED, HELD_OUT)
    }
