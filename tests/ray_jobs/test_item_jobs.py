"""What every job that works through items keeps: a run goes on, is rescored, and has one setup.

The run of each job is made once, in this process. What a resumed copy of it, and one on Ray whose
workers die, leave behind is held to it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_jobs import (
    cache_chapters,
    cache_codes,
    decode_codes,
    evaluate_chapters,
    evaluate_decoder,
    evaluate_pairs,
)
from ray_jobs.decoder import decode
from ray_jobs.decoder.cache import run as caching
from ray_jobs.decoder.evaluate import run as evaluation
from ray_jobs.moshi.cache import run as chapter_caching
from ray_jobs.moshi.chapters import worker as chapters
from ray_jobs.moshi.pairs import worker as pairs
from ttt.eval.chapters.records import read_record
from ttt.eval.pairs.records import read_part
from ttt.snac.load import load_codec
from ttt.snac.model import Decoder48k
from ttt.synthetic.pairs import say_by_arithmetic, write_fixtures

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
IN_PROCESS, ON_RAY = "cluster.num_workers=0", "cluster.num_workers=1"
SHAPE = {"dim": 64, "num_layers": 2, "depformer_dim": 32, "context": 20, "text_card": 64}
MOSHI = (f"model.lm_kwargs={json.dumps(SHAPE)}", "summary.resamples=20")


def content(paths: Iterable[Path]) -> list[bytes]:
    return [path.read_bytes() for path in sorted(paths)]


def chapter_records(output: Path) -> list[dict[str, Any]]:
    found = [read_record(path) for path in sorted(output.glob("records/**/*.parquet"))]
    return [
        {
            **asdict(replace(record.details, seconds=None, peak_bytes=None)),
            "nll": record.nll.tobytes(),
            "text": record.text.tobytes(),
        }
        for record in found
    ]


def pair_records(output: Path) -> list[dict[str, Any]]:
    parts = sorted(output.glob("items/**/*.parquet"))
    return [asdict(replace(row, seconds=None)) for path in parts for row in read_part(path)]


@dataclass(frozen=True)
class ItemJob:
    """A job, and what it is known by."""

    main: Callable[[list[str]], int]
    config: str
    place: Any
    """The module that starts the workers."""
    worker: str
    """Their class, under its name there."""
    method: str
    """Which works on an item."""
    records: Callable[[Path], list[Any]]
    lost: str
    """A record that can be made again, as a pattern; of lines in a file, the last one."""
    other: str
    """A word that a run which goes on may not change."""
    refusal: str

    def run(self, words: Iterable[str], output: Path, *more: str) -> int:
        return self.main(
            [f"--config={CONFIGS / self.config}.yaml", *words, f"output={output}", *more]
        )


JOBS = {
    "cache_codes": ItemJob(
        cache_codes.main, "cache_folder", caching, "ShardEncoder", "cache",
        lambda output: content([*output.glob("shards/*.*"), *output.glob("*.bin"),
                                output / "index.arrow", output / "manifest.jsonl"]),
        "shards/shard-00001.jsonl",
        "quality.clipped_share=0.5", "quality.clipped_share was 0.01, is 0.5",
    ),
    "cache_chapters": ItemJob(
        cache_chapters.main, "cache_chapters", chapter_caching, "ChapterEncoder", "cache",
        lambda output: content([*output.glob("shards/*.*"), output / "index.arrow",
                                output / "manifest.jsonl"]),
        "shards/shard-00001.jsonl",
        "data.min_seconds=0.5", "data.min_seconds was 0.0, is 0.5",
    ),
    "evaluate_decoder": ItemJob(
        evaluate_decoder.main, "evaluate_decoder", evaluation, "EvaluateWorker", "measure",
        lambda output: (output / "results.jsonl").read_text().splitlines(),
        "results.jsonl",
        "quality.min_seconds=0.5", "made with quality.min_seconds=0.25, and now it is 0.5",
    ),
    "decode_codes": ItemJob(
        decode_codes.main, "decode", decode, "DecodeWorker", "decode",
        lambda output: content(output.rglob("*.wav")),
        "a/1.wav",
        "decoder=OTHER", "a/0.wav was decoded with decoder_sha256",
    ),
    "evaluate_chapters": ItemJob(
        evaluate_chapters.main, "chapters_tiny_cpu", chapters, "ChapterWorker", "hear",
        chapter_records,
        "records/**/*.parquet",
        "chunk=8", "made with chunk=",
    ),
    "evaluate_pairs": ItemJob(
        evaluate_pairs.main, "pairs_tiny_cpu", pairs, "PairWorker", "score",
        pair_records,
        "items/**/*.parquet",
        "batch_items=3", "made with batch_items=",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def words(
    tmp_path_factory: pytest.TempPathFactory,
    small_codec: Path,
    small_export: Path,
    small_cache: Path,
    recordings: Path,
) -> dict[str, tuple[str, ...]]:
    """The words of each job, of two or three items."""
    roots = write_fixtures(tmp_path_factory.mktemp("benchmarks"), say_by_arithmetic)
    return {
        "cache_codes": (
            f"codec.name={small_codec}", f"input.audio={recordings / 'a'}", "clips_per_shard=1",
        ),
        "cache_chapters": (
            "mimi=tiny", f"data.root={recordings / 'a'}", "data.min_seconds=0",
            "chapters_per_shard=1",
        ),
        "evaluate_decoder": (
            f"decoder={small_export}", f"codec={small_codec}", f"data.audio={recordings / 'a'}",
            "bootstrap.resamples=100",
            "report={examples: 0, write_card: false, visqol: false}",
        ),
        "decode_codes": (f"decoder={small_export}", f"input={small_cache}"),
        "evaluate_chapters": (
            *MOSHI, "data=null", "synthetic.frames=60", "synthetic.chapters=3",
            "streams.other=masked", "verify_spans=0", "summary.positions=[50]",
            "summary.window_frames=40",
        ),
        "evaluate_pairs": (
            *MOSHI, f"tasks.swuggy.root={roots['swuggy']}", "tasks.swuggy.max_pairs=6",
            "pairs_per_shard=2", *(f"tasks.{name}=null" for name in roots if name != "swuggy"),
        ),
    }  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """A run without a worker's death."""

    job: ItemJob
    words: tuple[str, ...]
    output: Path


@pytest.fixture(scope="module", params=JOBS)
def finished(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    words: dict[str, tuple[str, ...]],
) -> Finished:
    """Never written to: tests take a copy of its folder."""
    job, output = JOBS[request.param], tmp_path_factory.mktemp(request.param) / "out"
    assert job.run(words[request.param], output, IN_PROCESS) == 0
    return Finished(job, words[request.param], output)


def test_what_is_missing_is_made_again_and_nothing_else(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, before = finished.job, finished.job.records(finished.output)
    output = shutil.copytree(finished.output, tmp_path / "out")
    path = sorted(output.glob(job.lost))[-1]
    lines = path.read_bytes().splitlines(keepends=True)
    path.unlink() if path.name != "results.jsonl" else path.write_bytes(b"".join(lines[:-1]))
    assert job.records(output) != before
    asked = counting(job, monkeypatch)
    assert job.run(finished.words, output, IN_PROCESS, "--resume") == 0
    assert (job.records(output), len(asked)) == (before, 1)
    assert job.run(finished.words, output, IN_PROCESS, "--resume") == 0
    assert (job.records(output), len(asked)) == (before, 1)


def test_a_run_has_one_configuration(
    finished: Finished,
    small_codec: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job, before = finished.job, finished.job.records(finished.output)
    output = shutil.copytree(finished.output, tmp_path / "out")
    decoder = Decoder48k.from_snac(load_codec(small_codec).model, "random", seed=5)
    decoder.save_pretrained(tmp_path / "other")
    other = job.other.replace("OTHER", str(tmp_path / "other"))
    asked = counting(job, monkeypatch)
    assert job.run(finished.words, output, other, IN_PROCESS, "--resume") == 2
    assert job.refusal in capsys.readouterr().err
    assert (job.records(output), asked) == (before, [])


@pytest.mark.parametrize("finished", ["evaluate_chapters", "evaluate_pairs"], indirect=True)
def test_rescoring_needs_no_worker_and_changes_nothing(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = shutil.copytree(finished.output, tmp_path / "out")
    names = ("summary.json", "legacy.json", "report.html")
    before = [(output / name).read_bytes() for name in names]
    for name in names:
        (output / name).unlink()
    asked = counting(finished.job, monkeypatch)
    assert finished.job.main(["--rescore", str(output)]) == 0
    assert ([(output / name).read_bytes() for name in names], asked) == (before, [])


def counting(job: ItemJob, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The items that workers in this process are given from now on."""
    asked: list[Any] = []
    worker = getattr(job.place, job.worker)
    work = getattr(worker, job.method)

    def call(self: Any, item: Any, *arguments: Any) -> Any:
        asked.append(item)
        return work(self, item, *arguments)

    monkeypatch.setattr(worker, job.method, call)
    return asked


def dying(worker: type, method: str, calls: Path) -> type:
    """The worker, whose second call loses the device, and whose third is killed (kill -9)."""

    def call(self: Any, *arguments: Any) -> Any:
        with calls.open("a") as file:
            file.write(".")
        number = calls.stat().st_size
        if number == 2:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure\nadvice")
        if number != 3:
            return getattr(worker, method)(self, *arguments)
        end = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL))
        end.start()
        getattr(worker, method)(self, *arguments)
        return end.join()  # Its work may be done by then: nobody is told.

    return type("Dying", (worker,), {method: call})


@pytest.mark.usefixtures("ray_local")
def test_workers_that_die_change_no_record(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, calls = finished.job, tmp_path / "calls"
    worker = dying(getattr(job.place, job.worker), job.method, calls)
    monkeypatch.setattr(job.place, job.worker, worker)
    assert job.run(finished.words, tmp_path / "out", ON_RAY) == 0
    items = 2 if job.method in ("cache", "measure", "decode") else 3
    assert calls.stat().st_size == items + 2, "each death costs one more call"
    assert job.records(tmp_path / "out") == job.records(finished.output)
    assert not list((tmp_path / "out").rglob("failures.jsonl"))
