"""Jobs without Ray: the same records in this process as on one worker and on several."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ray_jobs.config.workers import WorkersConfig
from ray_jobs.runtime.items import HereSession, WorkerDied, worker_session
from ray_jobs.runtime.progress import Progress
from ttt.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


class Adder:
    """Adds, and says who it is."""

    def __init__(self, base: int) -> None:
        self._base = base
        self._calls = 0

    def add(self, item: int, more: int = 0) -> int:
        return self._base + item + more

    def calls(self) -> int:
        self._calls += 1
        return self._calls


def sums(config: WorkersConfig) -> tuple[list[int], list[tuple[int, int]]]:
    """How often one worker was asked, and what all of them found, in two passes."""
    asked: list[int] = []
    with (
        worker_session(config, None, wanted=5) as session,
        session.workers(Adder, 10) as workers,
    ):
        progress = Progress("adding", 5, "numbers")
        workers.prepare(lambda ask: asked.extend((ask("calls"), ask("calls"))), progress)
        first = sorted(workers.each("add", [1, 2, 3, 4, 5]))
        second = sorted(workers.each("add", [7], 100))
    return asked, [*first, *second]


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("count", [0, 1, 2])
def test_workers_do_the_same_wherever_they_are(count: int) -> None:
    asked, found = sums(WorkersConfig(num_workers=count, cpus_per_worker=0.5))
    assert asked == [1, 2]
    assert found == [(1, 11), (2, 12), (3, 13), (4, 14), (5, 15), (7, 117)]


class Mortal:
    """Dies of its first item, wherever that is done first."""

    def __init__(self, folder: Path) -> None:
        self._grave = folder / "grave"

    def work(self, item: int) -> int:
        if not self._grave.exists():
            self._grave.touch()
            os._exit(1)
        return item


@pytest.mark.usefixtures("ray_local")
def test_progress_says_how_many_workers_took_the_place_of_dead_ones(tmp_path: Path) -> None:
    config, shown = WorkersConfig(num_workers=1), io.StringIO()
    with (
        worker_session(config, None, wanted=3) as session,
        Progress("working", 3, "items", stream=shown) as progress,
        session.exporting(progress, "decode_codes", str(tmp_path)),
        session.workers(Mortal, tmp_path) as workers,
    ):
        assert sorted(workers.each("work", [1, 2, 3], progress=progress)) == [
            (1, 1),
            (2, 2),
            (3, 3),
        ]
        assert progress.reading().fields == {"replaced_workers": 1}
    assert shown.getvalue().endswith("replaced_workers=1\n")


@pytest.mark.usefixtures("ray_local")
def test_null_takes_what_there_is_room_for() -> None:
    assert sums(WorkersConfig(num_workers=None))[1][0] == (1, 11)


def test_a_gpu_that_is_not_here_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = WorkersConfig(num_workers=0, gpus_per_worker=0.5)
    with (
        pytest.raises(
            UserError, match=r"sees no GPU, and cluster\.gpus_per_worker is 0\.5; set it"
        ),
        worker_session(config, None, wanted=1),
    ):
        pass


def test_what_is_counted_here_advances_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        Progress("counting", 10, "units", line_seconds=0) as progress,
        HereSession().counting(progress, {"where": "here"}) as count,
    ):
        count(0, 3)
        count(1, 2)
        count(0, 5)
    shown = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in shown] == ["3/10", "5/10", "7/10", "7/10"]
    assert "where=here" in shown[0]


def test_an_error_here_is_raised_and_no_item_died() -> None:
    with HereSession().workers(Adder, 1) as workers, pytest.raises(TypeError):
        assert not any(isinstance(r, WorkerDied) for _, r in workers.each("add", ["a"]))


def test_every_job_works_in_this_process_and_never_imports_ray(tmp_path: Path) -> None:
    """The sweep alone is Ray's."""
    for clip in range(6):
        (tmp_path / "speech").mkdir(exist_ok=True)
        noise = 0.1 * np.random.default_rng(clip).standard_normal(48_000)
        soundfile.write(tmp_path / "speech" / f"{clip}.wav", noise, 48_000)
    script = """
    import sys, torch
    torch.set_num_threads(1)
    from ray_jobs import cache_codes, decode_codes, evaluate_all, evaluate_decoder, train_decoder
    here = "cluster.num_workers=0"
    small = [
        "curriculum.epochs=1", "curriculum.head_only_epochs=1", "tracking.tensorboard=false",
        "validation.examples=0",
        "curriculum.stages=[{first_epoch: 1, last_epoch: 1, segment_seconds: 0.5,"
        " clips_per_step: 2}]",
    ]
    jobs = [
        (cache_codes, "cache_folder", "codec.name=tiny", "input.audio=speech", "output=cache"),
        (train_decoder, "train_tiny_cpu", "data.train=cache", "run=run",
         "data.validation_share=0.3", *small),
        (evaluate_decoder, "evaluate_decoder", "decoder=run", "data.audio=speech", "output=eval",
         "report.visqol=false", "report.examples=1", "bootstrap.resamples=100"),
        (decode_codes, "decode", "decoder=run/export", "input=cache", "output=wavs"),
        (evaluate_all, "evaluate_all", "pairs=null", "chapters.data=null", "output=all",
         "chapters.synthetic={chapters: 2, speakers: 2, frames: 40}", "model.weights=tiny",
         "chapters.streams.other=masked",
         "cluster.gpus_per_worker=0", "chapters.verify_spans=0", "model.mimi=null"),
    ]
    for job, name, *words in jobs:
        code = job.main([f"--config={sys.argv[1]}/configs/{name}.yaml", here, *words])
        assert code == 0, name
    assert "ray" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(ROOT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "wavs").glob("*.wav"))) == 6
    assert (tmp_path / "eval" / "report.html").exists()
    assert len(list((tmp_path / "all" / "chapters" / "records").rglob("*.parquet"))) == 2
