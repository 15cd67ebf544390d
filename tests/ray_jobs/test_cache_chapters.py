"""Caching chapters as a job: fates, the same bytes however it ran, refusals, own text."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ray_jobs import cache_chapters
from tests.ray_jobs.worker_processes import worker_pids
from ttt import records, storage
from ttt.eval.chapters.find import find_chapters
from ttt.eval.config import ChapterConfig
from ttt.moshi import evaluate_codes, tiny_lm
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.moshi.codes import encode_recording, silence_codes
from ttt.moshi.load import load_mimi
from ttt.synthetic.voice import utterance

ROOT = Path(__file__).resolve().parents[2]
SHAPE = {"dim": 64, "num_layers": 2, "depformer_dim": 32, "context": 20}
TEXT = (
    f"text={{weights: tiny, dtype: float32, chunk: 16, other: masked, lm_kwargs: "
    f"{json.dumps(SHAPE)}}}"
)
HERE = "cluster.num_workers=0"


def words(voices: Path, output: Path | str, *more: str) -> list[str]:
    return [
        *(f"--config={ROOT / 'configs/cache_chapters.yaml'}", f"data.root={voices}"),
        *(f"output={output}", "mimi=tiny", "chapters_per_shard=2", "data.min_seconds=2", *more),
    ]


def content(cache: Path) -> dict[str, bytes]:
    """Everything whose bytes are promised."""
    names = ("index.arrow", "manifest.jsonl")
    paths = [*cache.glob("shards/*"), *(cache / name for name in names)]
    return {path.name: path.read_bytes() for path in paths}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cache_chapters.main([*arguments]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four chapters by two speakers, one of them too short, one that breaks off, one no audio."""
    root = tmp_path_factory.mktemp("voices")
    lengths = (("1/a/x_1", 6.0), ("1/a/x_2", 3.01), ("1/a/x_3", 0.5), ("2/b/y_1", 4.0))
    for number, (name, seconds) in enumerate(lengths):
        path = root / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        audio = utterance(number, seconds, 16_000, speaker=number // 3)
        soundfile.write(path, audio, 16_000, subtype="PCM_16")
    whole = (root / "1/a/x_1.flac").read_bytes()
    (root / "2/b/y_2.flac").write_bytes(whole[: len(whole) // 2])
    (root / "2/b/y_3.flac").write_text("this is no audio")
    return root


@pytest.fixture(scope="module")
def cached(voices: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cache with text, made in this process; never written to."""
    output = tmp_path_factory.mktemp("cached") / "cache"
    assert cache_chapters.main(words(voices, output, TEXT, HERE)) == 0
    return output


def test_every_chapter_is_in_a_shard_or_in_the_manifest_with_its_reason(
    cached: Path, voices: Path
) -> None:
    lines = list(records.read_jsonl(cached / "manifest.jsonl"))
    assert [(line["chapter_id"], line["reason"], line["frames"]) for line in lines] == [
        ("1/a/x_1", None, 75),
        ("1/a/x_2", None, 38),
        ("1/a/x_3", "too short", None),
        ("2/b/y_1", None, 50),
        ("2/b/y_2", "unreadable", None),
        ("2/b/y_3", "unreadable", None),
    ]
    assert lines[2]["note"] == "0.50 s, data.min_seconds is 2"
    assert "y_2.flac" in lines[4]["note"]
    summary = records.read_json(cached / "summary.json")
    assert (summary["cached"], summary["left_out"], summary["frames"]) == (3, 3, 163)
    assert summary["left_out_by_reason"] == {"too short": 1, "unreadable": 2}
    assert sorted(path.name for path in cached.iterdir() if path.name != ".lock") == [
        "cache.json", "config.yaml", "index.arrow", "manifest.jsonl", "shards", "summary.json",
        "text.json",
    ]  # fmt: skip


def test_codes_are_mimis_and_text_is_the_base_models_own(cached: Path, voices: Path) -> None:
    cache, mimi = ChapterCache.open(cached), load_mimi("tiny")
    cache.require_mimi(mimi.name, mimi.weights_sha256)
    assert (cache.codes.device, cache.codes.precision, cache.codes.card) == ("cpu", "float32", 64)
    lm = tiny_lm(**SHAPE)
    found, _ = find_chapters(ChapterConfig(root=str(voices), min_seconds=2))
    for row, chapter in enumerate(cache.chapters):
        (audio,) = (each for each in found if each.chapter_id == chapter.chapter_id)
        made = encode_recording(mimi.mimi, "x", audio.pieces, None, mimi.weights_sha256)
        codes = cache.read(row, 0, chapter.n_frames)
        assert np.array_equal(codes, made.codes.T)
        heard = evaluate_codes(lm, torch.from_numpy(made.codes)[None], chunk=16)
        assert cache.read_text(row, 0, chapter.n_frames).tolist() == heard.text[0].tolist()
    assert cache.text is not None
    assert (cache.text.name, cache.text.context, cache.text.chunk) == ("tiny", 20, 16)


def test_text_beside_silence_leaves_no_silence_behind(voices: Path, tmp_path: Path) -> None:
    more = (TEXT.replace("masked", "silence"), "data.speakers=['2']", "min_cached_share=0.3", HERE)
    assert cache_chapters.main(words(voices, tmp_path / "cache", *more)) == 0
    assert not (tmp_path / "cache/silence").exists()
    cache, mimi = ChapterCache.open(tmp_path / "cache"), load_mimi("tiny")
    (chapter,) = cache.chapters
    frames = chapter.n_frames
    silence = silence_codes(mimi.mimi, frames, tmp_path, mimi.weights_sha256)
    codes = torch.from_numpy(np.ascontiguousarray(cache.read(0, 0, frames).T))[None]
    streams = {"other_stream": "silence", "silence": torch.from_numpy(silence)}
    heard = evaluate_codes(tiny_lm(**SHAPE), codes, chunk=16, **streams)
    assert cache.read_text(0, 0, frames).tolist() == heard.text[0].tolist()


def test_a_cache_can_lie_on_any_filesystem(cached: Path, voices: Path) -> None:
    there = "memory://cache_chapters_test"
    for _ in range(2):
        assert cache_chapters.main(words(voices, there, TEXT, HERE)) == 0
    assert cache_chapters.main(["--verify", there]) == 0
    for name, one in content(cached).items():
        folder = ["shards"] if name.startswith("shard-") else []
        assert storage.read_bytes(storage.join(there, *folder, name)) == one
    storage.delete(there)


def test_what_is_missing_is_made_again_and_verify_encodes_a_sample(
    cached: Path, voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(cached, tmp_path / "cache"))
    assert cache_chapters.main(["--verify", str(copy)]) == 0
    told = capsys.readouterr().out
    assert told.count("100.00% of its codes are the same") == 2
    assert told.endswith("ok: 3 chapters, 0.00 hours, 163 frames\n")
    (copy / "shards/shard-00001.jsonl").unlink()
    (copy / "index.arrow").unlink()
    (copy / "summary.json").unlink()
    (copy / "shards/.shard-00001.parquet.0a1b2c3d.tmp").write_bytes(b"left")
    again = words(voices, copy, TEXT, HERE)
    assert cache_chapters.main([*again, "--dry-run"]) == 0
    assert "3 of at most 2 chapters; 2 are finished, it goes on there" in capsys.readouterr().out
    assert cache_chapters.main(again) == 0
    assert content(copy) == content(cached)
    capsys.readouterr()
    assert cache_chapters.main(again) == 0
    assert "already complete, nothing to do" in capsys.readouterr().out
    shard = copy / "shards/shard-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-9])
    assert "1 problem(s), listed above; run its job again" in refused(capsys, "--verify", str(copy))


def test_verify_notices_codes_of_other_audio(
    cached: Path, voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio = Path(shutil.copytree(voices, tmp_path / "voices"))
    for name in ("1/a/x_1", "1/a/x_2", "2/b/y_1"):
        old, rate = soundfile.read(audio / f"{name}.flac", dtype="int16")
        soundfile.write(audio / f"{name}.flac", old[::-1], rate, subtype="PCM_16")
    copy = Path(shutil.copytree(cached, tmp_path / "cache"))
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace(str(voices), str(audio)))
    refused(capsys, "--verify", str(copy))
    (copy / "config.yaml").write_text(config.replace(str(voices), str(tmp_path / "gone")))
    assert cache_chapters.main(["--verify", str(copy)]) == 0
    assert "no chapter was encoded again: " in capsys.readouterr().out


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_writes_the_same_bytes(
    cached: Path, voices: Path, tmp_path: Path, workers: int
) -> None:
    more = (f"cluster.num_workers={workers}", "cluster.cpus_per_worker=0.5")
    assert cache_chapters.main(words(voices, tmp_path / "cache", TEXT, *more)) == 0
    assert content(tmp_path / "cache") == content(cached)


def test_another_cache_in_the_folder_is_refused_by_the_key(
    cached: Path, voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(cached)
    same = words(voices, cached, TEXT, HERE)
    for change, sentence in (
        ("chapters_per_shard=3", "chapters_per_shard was 2, is 3"),
        ("text.chunk=8", "text.chunk was 16, is 8"),
        ("text=null", "text was {"),
        ("data.min_seconds=0", "data.min_seconds was 2.0, is 0.0"),
        (f"data.root={voices / '1'}", "data.root was"),
    ):
        assert sentence in refused(capsys, *same, change)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    assert "but no cache.json, so it is no cache" in refused(capsys, *words(voices, foreign))
    told = records.read_json(cached / "text.json")
    copy = Path(shutil.copytree(cached, tmp_path / "cache"))
    (copy / "shards/shard-00000.jsonl").unlink()
    records.write_json(copy / "text.json", {**told, "fingerprint": "0" * 16})
    line = refused(capsys, *words(voices, copy, TEXT, HERE))
    assert f"its text is that of tiny ({'0' * 16}), and text.weights is tiny" in line
    assert content(cached) == before


def test_bad_input_is_one_sentence_before_anything_starts(
    voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, empty = tmp_path / "cache", tmp_path / "empty"
    empty.mkdir()
    twice = tmp_path / "twice.txt"
    twice.write_text(f"{voices}/1/a/x_1.flac\n" * 2)
    for change, sentence in (
        (f"data.root={empty}", "holds no audio (.flac, .mp3"),
        (f"data.root={tmp_path / 'none'}", "no such folder of chapters, and no manifest of them"),
        (f"data.root={twice}", "line 2 names"),
        (f"data.root=[{voices},{voices}]", "is found twice; let data.root name each place once"),
        ("data.speakers=['9']", "speakers 9 not found; there are 1, 2"),
        ("data.cache=somewhere", "data.cache has no effect: codes are made of audio"),
        ("mimi=nowhere", "nowhere: no such folder, and no repository (owner/name) either"),
        ("chapters_per_shard=0", "chapters_per_shard must be from 1 to 10,000, got 0"),
        ("text={other: silence}|output=s3://b/c", "output must be a folder that all nodes see"),
    ):
        assert sentence in refused(capsys, *words(voices, output), *change.split("|"))
        assert not output.exists()


def test_only_bad_chapters_fail_the_job_after_everything_is_written(
    voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, *words(voices, tmp_path / "c", HERE, "data.min_seconds=99"))
    assert "only 0.0% of the chapters were cached (5 too short, 1 unreadable)" in line
    assert (tmp_path / "c/manifest.jsonl").exists()


def test_recorded_chapters_and_a_manifest_of_them(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book = shared_data / "librilight_mini/LJ/the_art_and_craft_of_printing"
    manifest = tmp_path / "list.jsonl"
    lines = [json.dumps({"path": str(book / "printing_02.flac"), "speaker": "LJ"})]
    manifest.write_text("\n".join(lines))
    more = ("data.concatenate_seconds=200", HERE)
    assert cache_chapters.main(words(shared_data / "librilight_mini", tmp_path / "c", *more)) == 0
    (chapter,) = ChapterCache.open(tmp_path / "c").chapters
    assert (chapter.n_frames, chapter.joins) == (1392, (659,))
    assert cache_chapters.main(words(manifest, tmp_path / "m", HERE)) == 0
    (chapter,) = ChapterCache.open(tmp_path / "m").chapters
    assert chapter.speaker == "LJ"


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_kills_of_a_worker_and_of_the_driver_change_no_byte(
    voices: Path, cached: Path, tmp_path: Path
) -> None:
    output = tmp_path / "cache"
    more = ("cluster.num_workers=2", "cluster.cpus_per_worker=0.5", "cluster.local_cpus=1")
    job = subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.cache_chapters", *words(voices, output, TEXT, *more)],
        cwd=ROOT,
        start_new_session=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    deadline = time.monotonic() + 300
    try:
        while not (pids := worker_pids("ray::ChapterEncoder", below=job.pid)):
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(pids[0], signal.SIGKILL)
        while not list(output.glob("shards/*.jsonl")):
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        with contextlib.suppress(ProcessLookupError):  # It ended by itself.
            os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not (output / "summary.json").exists()
    assert cache_chapters.main(words(voices, output, TEXT, HERE)) == 0
    assert content(output) == content(cached)
