"""Copies at other levels through the jobs: cached alike by all, counted apart, measured by none."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from ray_jobs import cache_codes, train_decoder
from ray_jobs.config.load import load_config
from ray_jobs.decoder.cache.plan import make_plan
from ray_jobs.decoder.cache.words import describe
from ray_jobs.decoder.cache_config import CacheConfig
from ray_jobs.decoder.decode import plan_decode
from ray_jobs.decoder.evaluate.plan import plan_evaluation
from ray_jobs.decoder.evaluate_config import DecodeConfig, EvaluateConfig, EvaluationDataConfig
from ray_jobs.decoder.train.plan import TrainPlan, plan_training
from ray_jobs.decoder.train_config import TrainConfig
from tests.ray_jobs.nano_training import World
from ttt import records
from ttt.snac.cache.index import open_cache
from ttt.snac.cache.shards import read_shard_table
from ttt.training.micro_batches import BatchId

ROOT = Path(__file__).resolve().parents[2]
FORMATS = ROOT / "tests" / "input_formats"
BYTES = ("shards/*", "manifest.jsonl", "index.arrow", "codes.bin")
COPIES = "input.gain_copies_db={lowest: -9, highest: 12, copies: 2, seed: 3}"
PEAKS = (0.1, 1.0, 0.5, 0.02, 0.9, 0.3, 0.7)


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven clips of three speakers, one of them at full scale, and a silent one."""
    folder = tmp_path_factory.mktemp("levels")
    rng = np.random.default_rng(0)
    for number, peak in enumerate(PEAKS):
        noise = rng.standard_normal(26_000 + 9_000 * number)
        path = folder / f"speaker{number % 3}" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, peak * noise / np.abs(noise).max(), 48_000, subtype="PCM_16")
    soundfile.write(folder / "speaker0" / "silent.wav", np.zeros(48_000), 48_000)
    return folder


def _words(codec: Path, output: Path, *overrides: str, kind: str = "folder") -> list[str]:
    return [
        f"--config={ROOT / 'configs' / f'cache_{kind}.yaml'}", f"codec.name={codec}",
        f"output={output}", "clips_per_shard=2", "cluster.num_workers=0", COPIES, *overrides,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, small_codec: Path, audio: Path) -> Path:
    """Cached in this process: four shards."""
    folder = tmp_path_factory.mktemp("copies") / "cache"
    words = _words(small_codec, folder, f"input.audio={audio}", "input.speaker=folder:1")
    assert cache_codes.main(words) == 0
    return folder


def _contents(cache: Path) -> dict[str, bytes]:
    paths = [path for pattern in BYTES for path in cache.glob(pattern)]
    return {str(path.relative_to(cache)): path.read_bytes() for path in paths}


def _rows(cache: Path) -> list[dict]:
    shards = sorted(cache.glob("shards/*.parquet"))
    return [row for shard in shards for row in read_shard_table(shard).to_pylist()]


def test_the_cache_says_whose_copy_a_row_is(
    cache: Path, small_codec: Path, audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _rows(cache)
    originals = [row for row in rows if row["copy_of"] is None]
    assert len(originals) == 7
    assert len(rows) == 21
    for row in rows:
        if row["copy_of"] is not None:
            assert row["clip_id"] == f"{row['copy_of']}@{row['copy_gain_db']:+.2f}dB"
            assert np.abs(np.frombuffer(row["audio"], np.int16)).max() <= 32767
    index = open_cache(cache).catalogue
    assert index.is_copy.tolist() == [row["copy_of"] is not None for row in rows]
    assert index.speakers[:] == [row["speaker"] for row in rows]
    seconds = sum(row["n_samples"] for row in originals) / 48_000
    summary = records.read_json(cache / "summary.json")
    assert summary["hours"] == pytest.approx(seconds / 3600)
    assert summary["gain_copies"]["copies"] == 14
    assert summary["gain_copies"]["hours"] == pytest.approx(2 * seconds / 3600)
    assert summary["last_run"]["audio_seconds"] == pytest.approx(seconds)
    capsys.readouterr()
    assert cache_codes.main(["--verify", str(cache)]) == 0
    counted = "7 clips and 14 copies of them at other levels"
    assert capsys.readouterr().out.startswith(f"ok: {counted}, {seconds / 3600:.2f} hours")
    words = _words(small_codec, cache, f"input.audio={audio}", "input.speaker=folder:1")
    assert cache_codes.main(words) == 0
    reported = capsys.readouterr().out
    assert f"cached 7 of 8 clips, {seconds / 3600:.2f} h, and 14 copies at other levels" in reported
    assert "fewer" not in reported


def test_the_plan_says_what_copies_cost(small_codec: Path, audio: Path, tmp_path: Path) -> None:
    overrides = [f"input.audio={audio}", f"codec.name={small_codec}", f"output={tmp_path / 'c'}"]
    path = ROOT / "configs" / "cache_folder.yaml"
    said = []
    for copies in ([], [COPIES]):
        config = load_config(CacheConfig, path, [*overrides, *copies])
        said.append(describe(replace(make_plan(config), seconds_per_clip=3600.0)))
    assert "\ncopies " not in said[0]
    assert "copies   2 of each input at -9 to +12 dB: 16.00 h more" in said[1]
    # 8 hours of int16 at 48 kHz, and their copies.
    gib = [float(re.findall(r"about ([\d.]+) GiB in shards", words)[0]) for words in said]
    assert gib == pytest.approx([8 * 3600 * 96_000 / 2**30 * times for times in (1, 3)], abs=0.01)
    memory = [float(re.findall(r"needs about ([\d.]+) GiB", words)[0]) for words in said]
    assert memory[1] - memory[0] == pytest.approx(2 * 8 * 3600 * 192_000 / 2**30, abs=0.11)


def test_what_would_mix_or_mean_nothing_is_refused(
    cache: Path, small_codec: Path, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = _words(small_codec, cache, f"input.audio={audio}", "input.speaker=folder:1")
    for changed, sentence in (
        ("input.gain_copies_db.seed=4", "input.gain_copies_db.seed was 3, is 4"),
        ("input.gain_copies_db.copies=1", "input.gain_copies_db.copies was 2, is 1"),
        ("input.gain_copies_db=null", "is None"),
    ):
        capsys.readouterr()
        assert cache_codes.main([*words, changed]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert "choose another output or delete it" in error
    for wrong, sentence in (
        ("{lowest: 12, highest: -12}", "lowest must be below highest"),
        ("{copies: 0}", "set gain_copies_db: null"),
        ("{copies: 2.5}", "input.gain_copies_db.copies"),
        ("{gains: 2}", "input.gain_copies_db.gains"),
        ("12", "input.gain_copies_db"),
    ):
        override = f"input.gain_copies_db={wrong}"
        fresh = _words(small_codec, tmp_path / "a", f"input.audio={audio}", override)
        assert cache_codes.main([*fresh, "--dry-run"]) == 2
        assert sentence in capsys.readouterr().err
    original = _words(small_codec, tmp_path / "a", kind="original")
    assert cache_codes.main([*original, "input.codes=x", "input.audio_48k=y"]) == 2
    assert "gain_copies_db has no effect for kind original" in capsys.readouterr().err
    manifest = tmp_path / "list.txt"
    (tmp_path / "a.wav@+1.00dB").write_bytes((audio / "speaker0" / "0.wav").read_bytes())
    manifest.write_text("a.wav@+1.00dB")
    listed = _words(small_codec, tmp_path / "a", "input.kind=manifest", f"input.audio={manifest}")
    assert cache_codes.main([*listed, "--dry-run"]) == 2
    assert "a.wav@+1.00dB: its id ends as those of copies" in capsys.readouterr().err


def test_a_clip_without_room_is_cached_and_said(
    small_codec: Path, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    louder = "input.gain_copies_db={lowest: 1, highest: 3, copies: 2}"
    words = _words(small_codec, tmp_path / "c", f"input.audio={audio}", louder)
    assert cache_codes.main(words) == 0
    reported = (
        "10 copies at other levels, 0.00 h (2 clips have fewer than 2, manifest.jsonl says why)"
    )
    assert reported in capsys.readouterr().out
    lines = list(records.read_jsonl(tmp_path / "c" / "manifest.jsonl"))
    gains = {line["clip_id"]: line.get("copy_gains_db") for line in lines}
    assert gains["speaker0/silent.wav"] is None
    assert gains["speaker1/1.wav"] == []  # Full scale.
    assert gains["speaker1/4.wav"] == []  # .9 of it: .92 dB of room.
    assert sorted(map(len, (each for each in gains.values() if each))) == [2] * 5
    note = {line["clip_id"]: line["note"] for line in lines}["speaker1/4.wav"]
    assert note == (
        "0 of 2 copies at other levels: with a peak of -0.91 dB, +1 to +3 dB would clip or be "
        "silent"
    )


@pytest.mark.parametrize("lost", [".jsonl", ".parquet", "both", "half"])
@pytest.mark.parametrize("shard", range(4))
def test_killed_at_any_shard_it_ends_with_the_same_bytes(
    cache: Path, small_codec: Path, audio: Path, tmp_path: Path, shard: int, lost: str
) -> None:
    """All that a kill can leave of a shard, and nothing of those behind it."""
    words = _words(small_codec, tmp_path, f"input.audio={audio}", "input.speaker=folder:1")
    wanted = _contents(cache)
    for name, content in wanted.items():
        if name.startswith("shards/") and int(name.partition("-")[2][:5]) <= shard:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
    for name in ("cache.json", "config.yaml"):
        (tmp_path / name).write_bytes((cache / name).read_bytes())
    files = {
        each: tmp_path / "shards" / f"shard-{shard:05d}{each}" for each in (".parquet", ".jsonl")
    }
    for suffix, path in files.items():
        if lost in (suffix, "both"):
            path.unlink()
    if lost == "half":
        content = files[".parquet"].read_bytes()
        files[".parquet"].write_bytes(content[: len(content) // 2])
    assert cache_codes.main(words) == 0
    assert _contents(tmp_path) == wanted


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_writes_the_same_bytes(
    cache: Path, small_codec: Path, audio: Path, tmp_path: Path, workers: int
) -> None:
    words = _words(small_codec, tmp_path, f"input.audio={audio}", "input.speaker=folder:1")
    assert cache_codes.main([*words, f"cluster.num_workers={workers}"]) == 0
    assert _contents(tmp_path) == _contents(cache)


@pytest.mark.faults
def test_killed_for_real_it_goes_on(
    cache: Path, small_codec: Path, audio: Path, tmp_path: Path
) -> None:
    words = _words(small_codec, tmp_path, f"input.audio={audio}", "input.speaker=folder:1")
    job = subprocess.Popen([sys.executable, "-m", "ray_jobs.cache_codes", *words])
    deadline = time.monotonic() + 120
    while not (tmp_path / "shards" / "shard-00000.jsonl").exists() and job.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert cache_codes.main(words) == 0
    assert _contents(tmp_path) == _contents(cache)


def test_every_kind_of_input_has_the_same_copies(
    small_codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tars = ", ".join(str(FORMATS / f"speech-00000{part}.tar") for part in range(2))
    found = {}
    for kind, where in (("tar", f"[{tars}]"), ("parquet", FORMATS / "speech.parquet")):
        out = tmp_path / kind
        words = _words(small_codec, out, f"input.kind={kind}", f"input.audio={where}")
        assert cache_codes.main(words) == 0
        assert cache_codes.main(["--verify", str(out)]) == 0
        rows = _rows(out)
        assert sum(row["copy_of"] is not None for row in rows) == 2 * 6
        found[kind] = [row["audio"] for row in rows if row["copy_of"] is None]
        gains = {
            line["clip_id"]: line["copy_gains_db"]
            for line in records.read_jsonl(out / "manifest.jsonl")
        }
        assert [row["clip_id"] for row in rows if row["copy_of"] is not None] == [
            f"{clip_id}@{gain:+.2f}dB" for clip_id, drawn in gains.items() for gain in drawn
        ]
    assert found["tar"] == found["parquet"]


def test_a_pairs_copies_are_at_its_level_and_keep_what_was_measured(
    small_codec: Path, audio: Path, tmp_path: Path
) -> None:
    for number in (0, 3):
        sound, _ = soundfile.read(audio / f"speaker{number % 3}" / f"{number}.wav")
        for folder, gain in (("source", 1.0), ("target", 0.5)):
            (tmp_path / folder).mkdir(exist_ok=True)
            soundfile.write(tmp_path / folder / f"{number}.wav", gain * sound, 48_000)
    words = (f"input.source_24k={tmp_path / 'source'}", f"input.target_48k={tmp_path / 'target'}")
    assert cache_codes.main(_words(small_codec, tmp_path / "c", *words, kind="pair")) == 0
    assert cache_codes.main(["--verify", str(tmp_path / "c")]) == 0
    rows = _rows(tmp_path / "c")
    assert [row["copy_of"] for row in rows] == [None, "0.wav", "0.wav", None, "3.wav", "3.wav"]
    assert [row["gain_db"] for row in rows] == pytest.approx([6.02] * 6, abs=0.01)


# -- training, evaluating and decoding -------------------------------------------------------------


def _training(world: World, codec: Path, cache: Path, run: Path, **data: object) -> TrainConfig:
    tree = yaml.safe_load(world.config.read_text())
    tree |= {"run": str(run), "codec": str(codec)}
    tree["data"] = {"train": str(cache), "validation_share": 0.25, **data}
    tree["curriculum"]["windows_per_clip"] = "length"
    path = run.parent / "train.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_config(TrainConfig, path)


def _ids(plan: TrainPlan, rows: np.ndarray) -> list[str]:
    return plan.setup.cache.catalogue.clip_ids.at(rows)


@pytest.mark.parametrize(("limit", "trained"), [(None, 5), (3, 3)])
def test_training_hears_copies_and_validates_clips(
    world: World, small_codec: Path, cache: Path, tmp_path: Path, limit: int | None, trained: int
) -> None:
    config = _training(world, small_codec, cache, tmp_path / "run", limit_clips=limit)
    plan = plan_training(config)
    validated, rows = _ids(plan, plan.validation_rows), _ids(plan, plan.rows)
    assert len(validated) == 2
    assert len(rows) == 3 * trained
    assert not any("@" in clip_id for clip_id in validated)
    assert not {clip_id.partition("@")[0] for clip_id in rows} & set(validated)
    heard = {
        clip_id
        for epoch in plan.epochs
        for step in range(epoch.steps)
        for clip_id in _first_batch(plan, epoch.number, step)
    }
    assert heard <= set(rows)
    assert any("@" in clip_id for clip_id in heard)
    assert not all("@" in clip_id for clip_id in heard)


def test_a_fold_holds_clips_and_leaves_out_their_copies(
    world: World, small_codec: Path, cache: Path, tmp_path: Path
) -> None:
    folds = [
        plan_training(
            _training(world, small_codec, cache, tmp_path / "run", without_fold=f"{fold}/2")
        )
        for fold in (1, 2)
    ]
    kept_out = [_ids(plan, plan.kept_out_rows) for plan in folds]
    assert sorted(map(len, kept_out)) == [2, 3]
    for plan, ids, others in zip(folds, kept_out, kept_out[::-1], strict=True):
        assert not any("@" in clip_id for clip_id in ids)
        assert {clip_id.partition("@")[0] for clip_id in _ids(plan, plan.rows)} == set(others)
        assert len(plan.rows) == 3 * len(others)


def _first_batch(plan: TrainPlan, epoch: int, step: int) -> list[str]:
    shape = plan.epochs[epoch - 1].shape
    rows = plan.setup.windows.windows(shape, BatchId(epoch, step, 0)).rows
    return _ids(plan, rows)


def test_a_cache_that_validates_does_so_without_its_copies(
    world: World, small_codec: Path, cache: Path, tmp_path: Path
) -> None:
    config = _training(
        world, small_codec, cache, tmp_path / "run", validation=str(cache), validation_share=None
    )
    plan = plan_training(config)
    assert len(plan.rows) == 21
    assert len(plan.validation_rows) == 7
    assert not any("@" in clip_id for clip_id in _ids(plan, plan.validation_rows))


def test_the_plan_of_a_training_counts_clips_and_says_copies_beside_them(
    world: World, small_codec: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _training(world, small_codec, cache, tmp_path / "run")
    assert train_decoder.main(["--config", str(tmp_path / "train.yaml"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    counted = "7 clips and 14 copies of them at other levels, 5 train, and their copies with them"
    assert f"cache {cache}: {counted}" in printed
    assert "validation: 2 clips, " in printed
    plan = plan_training(config)
    catalogue = plan.setup.cache.catalogue
    originals = plan.rows[~catalogue.is_copy[plan.rows]]
    hours = catalogue.n_samples[originals].sum() / 48_000 / 3600
    beside = f"of {hours:.3g} hours of audio and {2 * hours:.3g} of copies at other levels in an"
    assert beside in printed
    assert "a copy is heard like a clip" in printed


def test_evaluating_and_decoding_leave_copies_out(
    small_codec: Path, small_export: Path, cache: Path, tmp_path: Path
) -> None:
    names = [row["clip_id"] for row in _rows(cache) if row["copy_of"] is None]
    config = EvaluateConfig(
        decoder=str(small_export),
        codec=str(small_codec),
        output=str(tmp_path / "e"),
        data=EvaluationDataConfig(cache=str(cache)),
    )
    items = plan_evaluation(config).items
    assert [item.clip_id for item in items] == names
    index = open_cache(cache)
    ids = [index.catalogue.clip_ids[item.row] for item in items]  # type: ignore[union-attr]
    assert ids == names
    decoding = DecodeConfig(decoder=str(small_export), input=str(cache), output=str(tmp_path / "d"))
    assert [item.clip_id for item in plan_decode(decoding).items] == names
