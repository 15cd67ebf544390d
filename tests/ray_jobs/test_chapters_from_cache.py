"""An evaluation of chapters that hears a cache in place of audio: the same losses, no encoding."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from ray_jobs import cache_chapters, evaluate_chapters
from ray_jobs.config.load import ConfigError, load_config
from ray_jobs.moshi.chapters import worker as chapter_worker
from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.moshi.chapters.plan import describe, make_plan
from tests.chapter_caches import write_cache
from ttt.errors import UserError
from ttt.eval.chapters.records import read_record
from ttt.layers import TTTConfig
from ttt.moshi import insert_ttt, save_ttt, tiny_lm
from ttt.records import read_json
from ttt.synthetic.voice import utterance

ROOT = Path(__file__).resolve().parents[2]
SHAPE = {"dim": 64, "num_layers": 2, "depformer_dim": 32, "context": 20}
HERE = "cluster.num_workers=0"


def words(output: Path, *more: str) -> list[str]:
    return [
        *(f"--config={ROOT / 'configs/chapters_tiny_cpu.yaml'}", f"output={output}", HERE),
        *(f"model.lm_kwargs={json.dumps(SHAPE)}", "chunk=16", "verify_spans=0"),
        *("summary.positions=[50]", "summary.window_frames=40", "summary.resamples=20", *more),
    ]


def cache(audio: Path, output: Path, *more: str) -> Path:
    config = f"--config={ROOT / 'configs/cache_chapters.yaml'}"
    where = [f"data.root={audio}", f"output={output}", "mimi=tiny", "data.min_seconds=0", HERE]
    assert cache_chapters.main([config, *where, "chapters_per_shard=2", *more]) == 0
    return output


def records_of(output: Path) -> dict[str, dict[str, Any]]:
    """Everything of the records but the time they took and what the codes were made of."""
    found = {}
    for path in sorted((output / "records").rglob("*.parquet")):
        record = read_record(path)
        details = {**vars(record.details), "seconds": None, "peak_bytes": None, "audio": None}
        arrays = {"nll": record.nll.tobytes(), "text": record.text.tobytes()}
        found[str(path.relative_to(output))] = {**details, **arrays}
    return found


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three chapters by two speakers, one of them in two pieces."""
    root = tmp_path_factory.mktemp("voices")
    lengths = (("1/a/x_0000", 5.0), ("1/a/x_0001", 2.3), ("1/a/y_0000", 4.0), ("2/b/z_0000", 6.0))
    for number, (name, seconds) in enumerate(lengths):
        path = root / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        audio = utterance(number, seconds, 16_000, speaker=number // 3)
        soundfile.write(path, audio, 16_000, subtype="PCM_16")
    return root


@pytest.fixture(scope="module")
def cached(voices: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never written to."""
    return cache(voices, tmp_path_factory.mktemp("cached") / "cache")


@pytest.fixture(scope="module")
def ttt_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ttt") / "ttt"
    lm = tiny_lm(**SHAPE)
    layers = TTTConfig(dim=64, num_heads=4, mini_batch_size=8)
    insert_ttt(lm, [1], layers, gate=0.8, generator=torch.Generator().manual_seed(0))
    save_ttt(lm, folder)
    return folder


def test_losses_are_those_of_the_audio_and_nothing_is_encoded(
    voices: Path, cached: Path, ttt_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = (f"model.ttt={ttt_folder}", "controls.other_prefix_frames=20", "verify_spans=1")
    assert evaluate_chapters.main(words(tmp_path / "audio", *more, f"data.root={voices}")) == 0

    def never(*_: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(chapter_worker, "encode_recording", never)
    assert evaluate_chapters.main(words(tmp_path / "cache", *more, f"data.cache={cached}")) == 0
    found = records_of(tmp_path / "cache")
    assert len(found) == 12
    assert found == records_of(tmp_path / "audio")
    joined = "records/ttt/1/a/x.parquet"
    assert found[joined]["joins"] == (62,)
    runs = [read_json(tmp_path / name / "run.json") for name in ("audio", "cache")]
    for key in ("models", "chapters", "mimi", "streams"):
        assert runs[0][key] == runs[1][key]


def test_recorded_chapters_have_the_same_losses(shared_data: Path, tmp_path: Path) -> None:
    audio = shared_data / "librilight_mini"
    there = cache(audio, tmp_path / "codes", "data.concatenate_seconds=200")
    more = ("streams.text=pad", "max_frames=700")
    from_audio = (f"data.root={audio}", "data.concatenate_seconds=200")
    assert evaluate_chapters.main(words(tmp_path / "audio", *more, *from_audio)) == 0
    assert evaluate_chapters.main(words(tmp_path / "cache", *more, f"data.cache={there}")) == 0
    found = records_of(tmp_path / "cache")
    assert found == records_of(tmp_path / "audio")
    ((_, record),) = found.items()
    assert record["joins"] == (659,)


def test_chapters_are_chosen_as_those_of_a_folder(cached: Path, tmp_path: Path) -> None:
    def plan(*more: str) -> list[str]:
        arguments = words(tmp_path / "out", f"data.cache={cached}", *more)
        path = arguments[0].partition("=")[2]
        config = load_config(EvaluateChaptersConfig, path, arguments[1:])
        planned = make_plan(config)
        assert f"in the cache {cached}" in describe(planned)
        return [each.chapter_id for each in planned.recordings]

    assert plan() == ["1/a/x", "1/a/y", "2/b/z"]
    assert plan("data.max_chapters=2") == ["1/a/x", "2/b/z"]
    assert plan("data.speakers=['1']", "data.min_seconds=5") == ["1/a/x"]
    with pytest.raises(UserError, match="speakers 3 not found; there are 1, 2"):
        plan("data.speakers=['3']")
    with pytest.raises(UserError, match="no chapter lasts min_seconds=60 s"):
        plan("data.min_seconds=60")
    with pytest.raises(ConfigError, match=r"pauses has no effect on a cache"):
        plan("data.pauses=cut")


def test_another_mimis_cache_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cache(tmp_path / "other", [60, 70])

    def no_session(*_: object, **__: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr("ray_jobs.moshi.evaluation.worker_session", no_session)
    arguments = words(tmp_path / "out", f"data.cache={tmp_path / 'other'}")
    for more in ([], ["--dry-run"]):
        assert evaluate_chapters.main([*arguments, *more]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "its codes were made by Mimi nano with weights aaaaaaaaaaaa, and Mimi tiny" in line
        assert "name the Mimi that made the cache, or cache again" in line
    assert not (tmp_path / "out").exists()
    assert evaluate_chapters.main([*arguments[:-1], f"data.cache={tmp_path / 'none'}"]) == 2
    assert "none: no such cache; write it with" in capsys.readouterr().err


def test_a_run_goes_on_with_its_own_codes_and_is_asked_again_without_torch(
    voices: Path, cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, output = Path(shutil.copytree(cached, tmp_path / "codes")), tmp_path / "out"
    arguments = words(output, f"data.cache={there}", "streams.other=masked")
    assert evaluate_chapters.main(arguments) == 0
    before = records_of(output)
    script = (
        "import sys; from ray_jobs import evaluate_chapters; "
        "assert evaluate_chapters.main(sys.argv[1:]) == 0; "
        "assert not {'torch', 'moshi', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, *arguments, "--resume"], cwd=ROOT, check=True)
    next((output / "records").rglob("x.parquet")).unlink()
    assert evaluate_chapters.main([*arguments, "--resume"]) == 0
    assert records_of(output) == before
    audio = Path(shutil.copytree(voices, tmp_path / "voices"))
    old, rate = soundfile.read(audio / "2/b/z_0000.flac", dtype="int16")
    soundfile.write(audio / "2/b/z_0000.flac", old[::-1], rate, subtype="PCM_16")
    shutil.rmtree(there)
    cache(audio, there)
    capsys.readouterr()
    assert evaluate_chapters.main([*arguments, "--resume"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "2/b/z in the cache has changed since baseline heard it; choose another output" in line
    assert records_of(output) == before
