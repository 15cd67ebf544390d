"""A rerun of a finished evaluation in a process of its own: what it imports, and what it writes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
from moshi.models import loaders

from ray_jobs import evaluate_all
from ttt.eval.config import FRAME_RATE
from ttt.layers import TTTConfig
from ttt.moshi import insert_ttt, save_ttt, tiny_lm
from ttt.synthetic.pairs import say_by_arithmetic, write_fixtures

ROOT = Path(__file__).resolve().parents[2]
SHAPE = {"dim": 64, "num_layers": 2, "depformer_dim": 32, "context": 20}
HEAVY = ("torch", "torchaudio", "moshi", "snac", "ray")
COMMANDS = """
    import contextlib, importlib, io, json, sys

    told = []
    for job, *words in json.loads(sys.argv[1]):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = importlib.import_module(f"ray_jobs.{job}").main(words)
        imported = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
        told.append({"code": code, "imported": imported, "output": output.getvalue()})
    print(json.dumps(told))
"""
"""Several commands one after the other: what none of them imports is not there at the end."""


def told(*commands: list[str], modules: tuple[str, ...] = HEAVY) -> list[dict[str, object]]:
    """Exit code, output and the imported ones of `modules` after each command."""
    words = [json.dumps(commands), json.dumps(modules)]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COMMANDS), *words],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    sys.stderr.write(done.stderr)  # pytest shows it where a test fails
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chapters and pairs, both of recordings, heard by a base model and one with TTT layers."""
    folder = tmp_path_factory.mktemp("rerun")
    lm = tiny_lm(**SHAPE)  # pyright: ignore[reportArgumentType]
    insert_ttt(lm, [1], TTTConfig(dim=lm.dim, num_heads=4))
    save_ttt(lm, folder / "ttt")
    for name in ("1/a/x_1", "2/b/y_1"):
        path = folder / "speech" / f"{name}.flac"
        path.parent.mkdir(parents=True)
        noise = 0.1 * np.random.default_rng(len(path.parts)).standard_normal(64_000)
        soundfile.write(path, noise, 16_000)
    words = write_fixtures(folder / "pairs", say_by_arithmetic)["swuggy"]
    none = [f"pairs.tasks.{name}=null" for name in ("sblimp", "tstory", "sstory", "salmon")]
    assert (
        evaluate_all.main(
            [
                *("--config", str(ROOT / "configs" / "evaluate_all.yaml")),
                *(f"output={folder / 'out'}", f"model.ttt={folder / 'ttt'}", *none),
                *("model.weights=tiny", "model.mimi=tiny", "model.dtype=float32"),
                *(f"model.lm_kwargs={json.dumps(SHAPE)}", "chapters.streams.text=pad"),
                *("cluster.gpus_per_worker=0", "cluster.num_workers=0"),
                *(f"chapters.data.root={folder / 'speech'}", "chapters.max_frames=24"),
                "chapters.summary={positions: [12], window_frames: 8, resamples: 50}",
                *(f"pairs.tasks.swuggy.root={words}", "pairs.tasks.swuggy.max_pairs=5"),
                *("pairs.summary.resamples=50", "pairs.silence_seconds=0.5"),
            ]
        )
        == 0
    )
    shutil.rmtree(folder / "ttt")  # Nothing is heard again: no model is looked at.
    return folder / "out"


def reruns(run: Path) -> list[list[str]]:
    """All that can be asked of a finished run and of its parts."""
    commands = []
    for job, folder in (
        ("evaluate_pairs", run / "pairs"),
        ("evaluate_chapters", run / "chapters"),
        ("evaluate_all", run),
    ):
        commands.append([job, "--config", str(folder / "config.yaml"), "--resume"])
        commands.append([job, "--rescore", str(folder)])
    return commands


def contents(run: Path) -> dict[str, bytes]:
    """What says the results, and what they were made of."""
    left_out = ("provenance.json", ".lock")  # Of the process that was the last to begin.
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in left_out
    }


def test_a_rerun_imports_no_torch_and_writes_the_same_bytes(run: Path) -> None:
    before = contents(run)
    assert {"report.html", "pairs/summary.json", "chapters/plots/loss_moshi.png"} <= set(before)
    every = told(*reruns(run), modules=(*HEAVY, "matplotlib"))
    assert [each["code"] for each in every] == [0] * 6
    assert [each["imported"] for each in every] == [[]] * 6
    resumed = "".join(str(each["output"]) for each in every[::2])
    assert resumed.count("nothing is left to score: no model is loaded") == 2
    assert resumed.count("nothing is left to hear: no model is loaded") == 2
    assert contents(run) == before


@pytest.mark.parametrize("part", ["pairs", "chapters"])
def test_pictures_that_are_gone_are_drawn_the_same(run: Path, part: str) -> None:
    before = contents(run)
    shutil.rmtree(run / part / "plots")
    (each,) = told([f"evaluate_{part}", "--rescore", str(run / part)])
    assert (each["code"], each["imported"]) == (0, [])
    assert contents(run) == before


def test_what_is_missing_is_planned_with_its_models(run: Path, tmp_path: Path) -> None:
    # The other side of the assertion above: it is torch that says what a model takes.
    there = Path(shutil.copytree(run / "pairs", tmp_path / "pairs"))
    (there / "items" / "baseline-paper" / "swuggy" / "part-00000.parquet").unlink()
    (there / "config.yaml").unlink()  # Its TTT layers are deleted, so it is asked without them.
    words = ["--config", str(run / "pairs" / "config.yaml"), f"output={there}", "model.ttt=null"]
    (each,) = told(["evaluate_pairs", *words, "--dry-run", "--resume"])
    assert each["code"] == 0
    assert "memory beyond the weights, baseline:" in str(each["output"])
    assert "torch" in each["imported"]  # pyright: ignore[reportOperatorIssue]


def test_frames_are_as_many_as_mimis() -> None:
    assert FRAME_RATE == loaders.FRAME_RATE
