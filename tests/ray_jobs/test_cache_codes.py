"""The caching job: three inputs, bad files, refusals in this process; kills on Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from ray_jobs import cache_codes
from ray_jobs.decoder.cache_config import CacheConfig, EncodersConfig, InputConfig
from ray_jobs.runtime import run_folder
from tests.object_store import ObjectStore
from ttt import records, storage
from ttt.audio import resample
from ttt.snac.cache.index import open_cache
from ttt.snac.cache.shards import read_shard_table

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ON_RAY = "cluster.num_workers=1"
BYTES_THAT_MUST_AGREE = ("shards/*.parquet", "shards/*.jsonl", "manifest.jsonl", "index.arrow")


def _noise(seconds: float, seed: int = 0, rate: int = 48_000, channels: int = 1) -> np.ndarray:
    shape = (round(seconds * rate), channels)
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def _write(path: Path, audio: np.ndarray, rate: int = 48_000, subtype: str = "PCM_16") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype=subtype)


def _words(config: str, codec: Path, output: Path | str, *overrides: str) -> list[str]:
    return [
        f"--config={CONFIGS / config}",
        f"codec.name={codec}",
        f"output={output}",
        "cluster.num_workers=0",
        *overrides,
    ]


def _contents(cache: Path) -> dict[str, bytes]:
    paths = [path for pattern in BYTES_THAT_MUST_AGREE for path in cache.glob(pattern)]
    return {
        str(path.relative_to(cache)): path.read_bytes() for path in [*paths, cache / "codes.bin"]
    }


def _manifest(cache: Path) -> dict[str, dict]:
    lines = list(records.read_jsonl(cache / "manifest.jsonl"))
    assert len({line["clip_id"] for line in lines}) == len(lines)
    return {line["clip_id"]: line for line in lines}


@pytest.fixture(scope="session")
def four_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of several seconds: four shards of two."""
    folder = tmp_path_factory.mktemp("eight")
    for number in range(8):
        _write(folder / f"{number}.wav", _noise(6 + number, seed=number))
    return folder


def test_a_folder_with_everything_that_can_be_wrong(
    tmp_path: Path, small_codec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio, cache = tmp_path / "audio", tmp_path / "cache"
    lengths = (1, 300, 4095, 4096, 4097, 23_456)
    for samples in lengths:
        _write(audio / "lengths" / f"{samples}.wav", _noise(samples / 48_000, seed=samples) + 0.2)
    _write(audio / "deep" / "er" / "stereo.flac", _noise(1, rate=44_100, channels=2), 44_100)
    _write(audio / "same.wav", _noise(1))
    _write(audio / "same.flac", _noise(1))
    whole = (audio / "same.wav").read_bytes()
    (audio / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (audio / "text.mp3").write_text("no audio")
    nan = _noise(1)
    nan[99] = np.nan
    _write(audio / "nan.wav", nan, subtype="FLOAT")
    _write(audio / "silent.wav", _noise(1) * 1e-5)
    _write(audio / "clipped.wav", np.clip(_noise(1) * 50, -1, 1))
    _write(audio / "slow.wav", _noise(1, rate=16_000), 16_000)

    overrides = (f"input.audio={audio}", "clips_per_shard=4", "quality.min_seconds=0")
    words = _words("cache_folder.yaml", small_codec, cache, *overrides)
    assert cache_codes.main(words) == 0
    manifest = _manifest(cache)
    left_out = {name: line["reason"] for name, line in manifest.items() if line["reason"]}
    assert left_out == {
        "cut.wav": "unreadable",
        "text.mp3": "unreadable",
        "nan.wav": "unreadable",
        "silent.wav": "silent",
        "clipped.wav": "clipped",
        "slow.wav": "wrong rate",
    }
    stored = [
        name
        for shard in sorted(cache.glob("shards/*.parquet"))
        for name in read_shard_table(shard, ["clip_id"])["clip_id"].to_pylist()
    ]
    assert stored == [name for name in manifest if name not in left_out]
    assert {f"lengths/{samples}.wav" for samples in lengths} < set(stored)
    assert "2 channels mixed to mono" in manifest["deep/er/stereo.flac"]["note"]

    summary = records.read_json(cache / "summary.json")
    assert (summary["inputs"], summary["cached"], summary["left_out"]) == (15, 9, 6)
    assert summary["last_run"]["times_real_time"] > 0
    assert summary["provenance"]["config_digest"]
    capsys.readouterr()
    assert cache_codes.main(["--verify", str(cache)]) == 0
    assert capsys.readouterr().out.startswith("ok: 9 clips, 0.00 hours")

    # Again: nothing is done anew, and nothing changes.
    before, stamps = _contents(cache), {p: p.stat().st_mtime_ns for p in cache.rglob("[!.]*.*")}
    assert cache_codes.main([*words, "--resume"]) == 0
    assert "already complete" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("[!.]*.*")} == stamps

    # Half of a shard's files gone, another damaged: only these two are made again.
    (cache / "shards/shard-00000.jsonl").unlink()
    damaged = cache / "shards/shard-00002.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-50])
    (cache / "shards/.shard-00001.parquet.12345678.tmp").write_bytes(b"left by a kill")
    assert cache_codes.main(words) == 0
    assert _contents(cache) == before
    assert not list(cache.glob("shards/.*"))
    assert records.read_json(cache / "summary.json")["last_run"]["shards"] == 2

    # Other settings or other inputs do not mix with what is there.
    assert cache_codes.main([*words, "quality.clipped_share=0.5"]) == 2
    error = capsys.readouterr().err
    assert "quality.clipped_share was 0.01, is 0.5" in error
    assert "choose another output or delete it" in error
    _write(audio / "new.wav", _noise(1))
    assert cache_codes.main(words) == 2
    assert "inputs was 15, is 16" in capsys.readouterr().err

    # Damage is named, whatever it is.
    table = cache / "shards/shard-00000.parquet"
    table.write_bytes(table.read_bytes()[:-50])
    assert cache_codes.main(["--verify", str(cache)]) == 2
    assert "shard-00000.parquet: not a readable parquet file" in capsys.readouterr().out


def test_pairs_are_aligned_and_the_original_cache_is_taken_over(
    tmp_path: Path, small_codec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target, cache = tmp_path / "source", tmp_path / "target", tmp_path / "cache"
    for number in range(3):
        audio = _noise(2, seed=number)
        late = np.concatenate([np.zeros((240, 1), np.float32), audio * np.float32(0.5)])
        _write(source / "x" / f"{number}.wav", audio)
        _write(target / "x" / f"{number}.flac", late[: len(audio)])
    _write(source / "alone.wav", _noise(1))
    overrides = (f"input.source_24k={source}", f"input.target_48k={target}")
    assert cache_codes.main(_words("cache_pair.yaml", small_codec, cache, *overrides)) == 0
    assert "median gain +6.02 dB, 3 clips beyond 1 dB; lag 240 to 240" in capsys.readouterr().out
    alignment = records.read_json(cache / "summary.json")["alignment"]
    assert alignment["clips_with_gain_beyond_1_db"] == alignment["clips_with_lag"] == 3
    manifest = _manifest(cache)
    assert manifest["alone.wav"]["reason"] == "no partner"
    assert manifest["x/0.wav"]["lag_samples"] == 240
    pairs = read_shard_table(cache / "shards/shard-00000.parquet")

    # The same clips in the original's format.
    codes, wavs, imported = tmp_path / "codes", tmp_path / "wavs", tmp_path / "imported"
    rows = []
    for clip in pairs.to_pylist():
        name = clip["clip_id"].replace("/", "_")
        audio = np.frombuffer(clip["audio"], np.int16)[: clip["n_samples"]]
        _write(wavs / name, audio)
        scales = {f"codes_scale_{k}": clip[f"codes_{k}"] for k in range(3)}
        rows.append({"file_path": name, **scales, "audio_length": clip["n_samples"] // 2})
    codes.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), codes / "codes_batch_gpu0_0.parquet")
    (codes / "metadata.json").write_text(json.dumps({"vq_strides": [8, 4, 2, 1]}))
    overrides = (f"input.codes={codes}", f"input.audio_48k={wavs}")
    assert cache_codes.main(_words("cache_original.yaml", small_codec, imported, *overrides)) == 0
    again = read_shard_table(imported / "shards/shard-00000.parquet")
    for column in ("codes_0", "codes_1", "codes_2", "audio", "n_samples", "crc32"):
        assert again[column].equals(pairs[column])
    assert "metadata.json is ignored" in records.read_json(imported / "summary.json")["notes"][0]
    assert cache_codes.main(["--verify", str(imported)]) == 0


def test_what_is_wrong_is_said_before_ray_starts(
    tmp_path: Path, small_codec: Path, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    full.mkdir()
    (full / "thesis.txt").write_text("precious")
    for output, override, sentence in (
        (tmp_path / "a", f"input.audio={empty}", f"error: {empty}: holds no audio file"),
        (tmp_path / "a", "input.audio=s3://bucket/x", "must be local paths"),
        (full, f"input.audio={recordings}", "holds thesis.txt but no cache.json"),
        (tmp_path / "a", "input.audio=null", "audio must name a folder for kind folder"),
        (tmp_path / "a", "input.codes=x", "codes has no effect for kind folder"),
        (tmp_path / "a", "align={}", "align has no effect for input.kind folder"),
        (tmp_path / "a", "clips_per_shard=0", "clips_per_shard must be from 1"),
        (tmp_path / "a", "quality.silent_peak=0", "silent_peak_db"),
        (tmp_path / "a", "codec.name=/none/here", "no such codec folder"),
    ):
        words = _words("cache_folder.yaml", small_codec, output, override)
        assert cache_codes.main([*words, "--dry-run"]) == 2
        assert sentence in capsys.readouterr().err
    assert (full / "thesis.txt").read_text() == "precious"


def test_a_folder_in_use_is_refused(
    tmp_path: Path, small_codec: Path, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = _words("cache_folder.yaml", small_codec, tmp_path, f"input.audio={recordings}")
    with run_folder.locked(str(tmp_path)):
        assert cache_codes.main(words) == 2
    assert f"{tmp_path}: in use by process {os.getpid()} on " in capsys.readouterr().err
    assert os.listdir(tmp_path) == [".lock"]


def test_a_run_that_caches_too_little_fails_and_says_why(
    tmp_path: Path, small_codec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(tmp_path / "audio" / "a.wav", _noise(1, rate=16_000), 16_000)
    words = _words("cache_folder.yaml", small_codec, tmp_path / "cache")
    assert cache_codes.main([*words, f"input.audio={tmp_path / 'audio'}"]) == 2
    assert "only 0.0% of the inputs were cached (1 wrong rate)" in capsys.readouterr().err
    assert _manifest(tmp_path / "cache")["a.wav"]["note"] == "16,000 Hz, at least 44,100 needed"


@pytest.mark.usefixtures("ray_local")
def test_more_encoders_than_cpus_are_refused(
    tmp_path: Path, small_codec: Path, four_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = _words("cache_folder.yaml", small_codec, tmp_path, f"input.audio={four_shards}")
    assert cache_codes.main([*words, "cluster.num_workers=3", "clips_per_shard=2"]) == 2
    error = capsys.readouterr().err
    assert "3 workers of 1 CPU and 0 GPU cannot be placed on this Ray, which has room" in error


def test_dry_run_prints_the_plan_and_writes_nothing(
    tmp_path: Path, small_codec: Path, four_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = _words("cache_folder.yaml", small_codec, tmp_path / "cache", "clips_per_shard=2")
    assert cache_codes.main([*words, f"input.audio={four_shards}", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "8 inputs (8 .wav), about 0.02 h of audio" in plan
    assert "24,000 Hz, hop 512, strides (4, 2, 1), codebooks of 64" in plan
    assert "4 of at most 2 inputs" in plan
    assert not (tmp_path / "cache").exists()


def test_settings_that_would_be_silent_are_refused() -> None:
    folder, pair = InputConfig(audio="a"), InputConfig(kind="pair", source_24k="a", target_48k="b")
    with pytest.raises(ValueError, match=r"align must be given for input\.kind pair"):
        CacheConfig(input=pair, output="c")
    with pytest.raises(ValueError, match="min_cached_share must be from 0 to 1"):
        CacheConfig(input=folder, output="c", min_cached_share=1.5)
    for wrong in ({"num_workers": -1}, {"gpus_per_worker": 1.5}, {"read_threads": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EncodersConfig(**wrong)


def test_a_cache_on_s3_that_errs_now_and_then_has_the_same_bytes(
    tmp_path: Path,
    small_codec: Path,
    four_shards: Path,
    object_store: ObjectStore,
    capsys: pytest.CaptureFixture[str],
) -> None:
    audio = (f"input.audio={four_shards}", "clips_per_shard=4")
    here, there = tmp_path / "cache", object_store.uri("cache")
    assert cache_codes.main(_words("cache_folder.yaml", small_codec, here, *audio)) == 0
    refused: set[str] = set()

    def fails(method: str, path: str) -> bool:
        """The first of the encoders' uploads of each file."""
        is_first = method == "PUT" and "/shards/" in path and path not in refused
        refused.update([path] if is_first else [])
        return is_first

    object_store.fails = fails
    words = _words("cache_folder.yaml", small_codec, there, *audio)
    assert cache_codes.main(words) == 0
    assert len(refused) == 4
    for name in _contents(here):
        assert storage.read_bytes(storage.join(there, name)) == (here / name).read_bytes(), name
    capsys.readouterr()
    assert cache_codes.main(["--verify", there]) == 0
    assert cache_codes.main(words) == 0
    assert "already complete" in capsys.readouterr().out
    storage.delete(storage.join(there, "shards/shard-00001.parquet"))
    assert cache_codes.main(words) == 0
    assert "already complete" not in capsys.readouterr().out
    assert (
        storage.read_bytes(storage.join(there, "index.arrow"))
        == (here / "index.arrow").read_bytes()
    )


@pytest.mark.faults
@pytest.mark.usefixtures("ray_local")
def test_a_job_killed_midway_goes_on_and_changes_no_byte(
    tmp_path: Path, small_codec: Path, four_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second start is refused while the first lives."""
    audio = (f"input.audio={four_shards}", "clips_per_shard=2")
    assert cache_codes.main(_words("cache_folder.yaml", small_codec, tmp_path / "a", *audio)) == 0
    words = _words("cache_folder.yaml", small_codec, tmp_path / "b", *audio, ON_RAY)
    job = subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.cache_codes", *words, "cluster.local_cpus=1"],
        start_new_session=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    try:
        _wait_for(lambda: _first_shard_is_there(tmp_path / "b") or job.poll() is not None)
        assert cache_codes.main(words) == 2
    finally:
        os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert f"{tmp_path / 'b'}: in use by process {job.pid} on " in capsys.readouterr().err
    assert not (tmp_path / "b" / "summary.json").exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("b/shards/*.jsonl")}
    assert before
    assert cache_codes.main(words) == 0
    assert _contents(tmp_path / "b") == _contents(tmp_path / "a")
    assert records.read_json(tmp_path / "b" / "summary.json")["last_run"]["shards"] <= 3


def test_recorded_audio(tmp_path: Path, small_codec: Path, shared_data: Path) -> None:
    words = _words("cache_folder.yaml", small_codec, tmp_path, "clips_per_shard=5")
    assert cache_codes.main([*words, f"input.audio={shared_data / 'audio48k'}"]) == 0
    assert len(_manifest(tmp_path)) == 12
    table = read_shard_table(tmp_path / "shards/shard-00000.parquet")
    for clip in table.to_pylist():
        samples, _ = soundfile.read(shared_data / "audio48k" / clip["clip_id"], dtype="int16")
        assert np.array_equal(np.frombuffer(clip["audio"], np.int16)[: len(samples)], samples)


def _first_shard_is_there(cache: Path) -> bool:
    return (cache / "shards" / "shard-00000.jsonl").exists()


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_speakers_stand_in_index_manifest_and_summary(
    tmp_path: Path, small_codec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio, cache = tmp_path / "audio", tmp_path / "cache"
    for seed, name in enumerate(("anna/1", "anna/x/2", "bela/1", "3")):
        _write(audio / f"{name}.wav", _noise(0.5, seed))
    words = _words("cache_folder.yaml", small_codec, cache, f"input.audio={audio}")
    assert cache_codes.main([*words, "input.speaker=folder:3"]) == 2
    assert "none of the 4 inputs has them" in capsys.readouterr().err
    assert cache_codes.main([*words, "input.speaker=folder:1"]) == 0
    manifest = _manifest(cache)
    assert manifest.pop("3.wav")["reason"] == "no speaker"
    speakers = {name: line["speaker"] for name, line in manifest.items()}
    assert speakers == {"anna/1.wav": "anna", "anna/x/2.wav": "anna", "bela/1.wav": "bela"}
    assert open_cache(cache).catalogue.speakers[:] == list(speakers.values())
    assert records.read_json(cache / "summary.json")["speakers"] == 2
    assert cache_codes.main(["--verify", str(cache)]) == 0
    assert "folder:1, is None" not in capsys.readouterr().err
    assert cache_codes.main(words) == 2
    assert "input.speaker was folder:1, is None" in capsys.readouterr().err
    _write(audio / "bela/1.wav", _noise(0.6, 2))  # Under its old name, and another length.
    for flags in (["--dry-run"], []):
        assert cache_codes.main([*words, "input.speaker=folder:1", *flags]) == 2
        assert f"{audio}/bela/1.wav: has 57,644 bytes and had 48,044" in capsys.readouterr().err


def test_bandwidths_are_recorded_and_may_have_a_minimum(
    tmp_path: Path, small_codec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio, cache = tmp_path / "audio", tmp_path / "cache"
    for seed, rate in enumerate((48_000, 16_000, 32_000)):
        low = resample(torch.from_numpy(_noise(1, seed).T), 48_000, rate, sharp=True)
        _write(audio / f"{rate}.wav", resample(low, rate, 48_000, sharp=True).numpy().T)
    words = _words("cache_folder.yaml", small_codec, cache, f"input.audio={audio}")
    assert cache_codes.main(words) == 0
    bandwidths = {name: line["bandwidth_hz"] for name, line in _manifest(cache).items()}
    assert bandwidths["48000.wav"] == 24_000
    assert 7_500 <= bandwidths["16000.wav"] <= 8_000
    assert 15_000 <= bandwidths["32000.wav"] <= 16_000
    assert open_cache(cache).catalogue.bandwidth_hz.tolist() == list(bandwidths.values())
    summary = records.read_json(cache / "summary.json")["bandwidth"]
    reaching = sum(hertz >= 16_000 for hertz in bandwidths.values())
    assert summary["share_reaching_16_khz"] == pytest.approx(reaching / 3)
    assert f"{reaching / 3:.1%} of the hours reach 16 kHz" in capsys.readouterr().out
    assert cache_codes.main(["--verify", str(cache)]) == 0

    strict = _words("cache_folder.yaml", small_codec, tmp_path / "b", f"input.audio={audio}")
    assert cache_codes.main([*strict, "input.min_bandwidth_hz=20000", "min_cached_share=0"]) == 0
    reasons = {name: line["reason"] for name, line in _manifest(tmp_path / "b").items()}
    assert reasons == {
        "16000.wav": "narrow band",
        "32000.wav": "narrow band",
        "48000.wav": None,
    }
    with pytest.raises(ValueError, match=r"min_bandwidth_hz must be above 0 and at most 24,000"):
        InputConfig(audio="a", min_bandwidth_hz=25_000)
