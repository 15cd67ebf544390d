"""Shards: every input ends in exactly one place, and the same inputs give the same bytes."""

import functools
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from snac import SNAC

from ttt import records, storage
from ttt.errors import UserError
from ttt.snac.cache.encode import ClipEncoder
from ttt.snac.cache.inputs import ClipInput, LeftOut, PreparedClip, QualityConfig
from ttt.snac.cache.shards import CodecIdentity, build_index, read_shard_table
from ttt.snac.cache.sources import list_folder, prepare_recording
from ttt.snac.cache.verify import verify_cache
from ttt.snac.cache.write_shard import (
    cache_shard,
    check_manifest,
    is_finished,
    merge_manifest,
    part_uri,
    read_part,
    refuse_replaced,
    shard_uri,
)
from ttt.snac.config import EncodeConfig
from ttt.snac.geometry import CodeGeometry

CODEC = CodecIdentity("nano", "0" * 64)
GEOMETRY = CodeGeometry.preset("snac_24khz")


@pytest.fixture
def encoder(nano_snac: SNAC) -> ClipEncoder:
    return ClipEncoder(nano_snac, EncodeConfig())


def _recording(quality: QualityConfig) -> functools.partial:
    return functools.partial(prepare_recording, geometry=GEOMETRY, quality=quality)


def _write_noise(path: Path, samples: int) -> None:
    audio = np.random.default_rng(samples).uniform(-0.5, 0.5, samples)
    content = io.BytesIO()  # soundfile syncs every file that it writes itself.
    soundfile.write(content, audio, 48_000, format="WAV")
    path.write_bytes(content.getvalue())


def _one_second(clip: ClipInput) -> PreparedClip:
    seed = int(clip.clip_id)
    if seed % 5 == 4:
        raise LeftOut("silent", "peak zero everywhere", 1.0)
    rng = np.random.default_rng(seed)
    return PreparedClip(
        clip_id=clip.clip_id,
        source=rng.normal(0, 0.1, 24_000).astype(np.float32),
        audio=rng.integers(-999, 999, 48_000).astype(np.int16),
    )


def _inputs(*seeds: int) -> list[ClipInput]:
    return [ClipInput(clip_id=str(seed)) for seed in seeds]


def test_every_length_from_1_to_4096_is_cached(tmp_path: Path, encoder: ClipEncoder) -> None:
    """The original dropped 72 % of its files without a word; here not one of 4,096 lengths."""
    audio, cache = tmp_path / "audio", tmp_path / "cache"
    audio.mkdir()
    for samples in range(1, 4097):
        _write_noise(audio / f"{samples:04d}.wav", samples)
    inputs = list_folder(str(audio))
    prepare = _recording(QualityConfig(min_seconds=0))
    lines = cache_shard(cache, 0, inputs, prepare, encoder, CODEC)
    assert len(lines) == 4096
    assert {line["status"] for line in lines} == {"cached"}
    table = read_shard_table(shard_uri(cache, 0), ["clip_id", "n_samples", "n_coarse", "codes_2"])
    assert table["n_samples"].to_pylist() == list(range(1, 4097))
    assert set(table["n_coarse"].to_pylist()) == {1}
    assert {len(codes) for codes in table["codes_2"].to_pylist()} == {4}


def test_with_the_default_minimum_the_rest_is_in_the_manifest(
    tmp_path: Path, encoder: ClipEncoder
) -> None:
    audio, cache = tmp_path / "audio", tmp_path / "cache"
    audio.mkdir()
    lengths = [1, 4096, 11_999, 12_000, 12_001]
    for samples in lengths:
        _write_noise(audio / f"{samples:05d}.wav", samples)
    prepare = _recording(QualityConfig())
    lines = cache_shard(cache, 0, list_folder(str(audio)), prepare, encoder, CODEC)
    assert [line["reason"] for line in lines] == [*["too short"] * 3, None, None]


def test_one_line_per_input_in_order_and_counted(tmp_path: Path, encoder: ClipEncoder) -> None:
    def prepare(clip: ClipInput) -> PreparedClip:
        if clip.clip_id == "7":
            raise ZeroDivisionError("odd file")
        return _one_second(clip)

    gone = ClipInput(clip_id="x", problem="no partner", problem_note="no x.*")
    cache_shard(tmp_path, 0, [*_inputs(3, 1, 4), gone], prepare, encoder, CODEC, read_threads=3)
    cache_shard(tmp_path, 1, _inputs(7, 0), prepare, encoder, CODEC, read_threads=3)
    counts = merge_manifest(tmp_path, 2)
    manifest = list(records.read_jsonl(tmp_path / "manifest.jsonl"))
    assert [(line["clip_id"], line["reason"], line["shard"]) for line in manifest] == [
        ("3", None, 0),
        ("1", None, 0),
        ("4", "silent", None),
        ("x", "no partner", None),
        ("7", "failed", None),
        ("0", None, 1),
    ]
    assert manifest[4]["note"] == "ZeroDivisionError: odd file"
    assert (counts["inputs"], counts["cached"], counts["left_out"]) == (6, 3, 3)
    assert counts["left_out_by_reason"] == {"failed": 1, "no partner": 1, "silent": 1}
    assert counts["hours"] == pytest.approx(3 / 3600)
    build_index(tmp_path)
    assert verify_cache(tmp_path) == []
    assert check_manifest(tmp_path) == []


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, encoder: ClipEncoder) -> None:
    for name, threads in (("a", 1), ("b", 4)):
        inputs = _inputs(*range(20))
        cache_shard(tmp_path / name, 0, inputs, _one_second, encoder, CODEC, threads)
    for name in ("shard-00000.parquet", "shard-00000.jsonl"):
        a, b = (tmp_path / cache / "shards" / name for cache in "ab")
        assert a.read_bytes() == b.read_bytes()


def test_a_shard_is_finished_when_both_files_agree(tmp_path: Path, encoder: ClipEncoder) -> None:
    two = _inputs(0, 1)
    assert not is_finished(tmp_path, 0, two)
    cache_shard(tmp_path, 0, two, _one_second, encoder, CODEC)
    assert is_finished(tmp_path, 0, two)
    assert not is_finished(tmp_path, 0, [*two, *two])
    shard, part = Path(shard_uri(tmp_path, 0)), Path(part_uri(tmp_path, 0))
    whole, lines = shard.read_bytes(), part.read_bytes()
    shard.write_bytes(whole[:-100])
    assert not is_finished(tmp_path, 0, two)
    shard.unlink()
    assert not is_finished(tmp_path, 0, two)
    shard.write_bytes(whole)
    part.unlink()
    assert not is_finished(tmp_path, 0, two)
    part.write_bytes(lines)
    assert is_finished(tmp_path, 0, two)


def test_a_shard_without_a_good_clip_leaves_its_lines_only(
    tmp_path: Path, encoder: ClipEncoder
) -> None:
    two = _inputs(4, 9)
    cache_shard(tmp_path, 0, two, _one_second, encoder, CODEC)
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["shard-00000.jsonl"]
    assert is_finished(tmp_path, 0, two)


@pytest.mark.parametrize(("now", "words"), [(101, "has 101 bytes"), (None, "is missing")])
@pytest.mark.parametrize("seed", [0, 4], ids=["cached", "left out"])
def test_a_file_of_another_size_is_refused_by_its_name(
    tmp_path: Path, encoder: ClipEncoder, seed: int, now: int | None, words: str
) -> None:
    files = [tmp_path / f"{n}.wav" for n in (9, seed)]
    for file in files:
        file.write_bytes(bytes(100))
    made_of = [ClipInput(file.stem, source=str(file), file_bytes=100) for file in files]
    cache_shard(tmp_path, 0, made_of, _one_second, encoder, CODEC)
    assert is_finished(tmp_path, 0, made_of)
    refuse_replaced(tmp_path, 0, made_of)
    files[1].unlink()
    if now is not None:
        files[1].write_bytes(bytes(now))
    with pytest.raises(UserError, match=rf"/{seed}\.wav: {words} and had 100 when .*or delete"):
        refuse_replaced(tmp_path, 0, made_of)
    Path(part_uri(tmp_path, 0)).unlink()
    assert not is_finished(tmp_path, 0, made_of)


def test_a_manifest_that_disagrees_with_the_shards_is_named(
    tmp_path: Path, encoder: ClipEncoder
) -> None:
    cache_shard(tmp_path, 0, _inputs(0, 1), _one_second, encoder, CODEC)
    assert check_manifest(tmp_path)[0].endswith("missing, the job has not finished; run it again")
    merge_manifest(tmp_path, 1)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(manifest.read_text(encoding="utf-8").splitlines()[0] + "\n")
    assert check_manifest(tmp_path) == [f"{manifest}: clip 1 of the shards is not listed"]


def test_a_cache_can_lie_on_any_filesystem(encoder: ClipEncoder) -> None:
    cache = "memory://cache_shard_test"
    cache_shard(cache, 0, _inputs(0, 4, 1), _one_second, encoder, CODEC)
    assert is_finished(cache, 0, _inputs(0, 4, 1))
    assert [line["status"] for line in read_part(cache, 0)] == ["cached", "left_out", "cached"]
    assert merge_manifest(cache, 1)["cached"] == 2
    build_index(cache)
    assert verify_cache(cache) == []
    storage.delete(cache)
