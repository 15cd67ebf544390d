import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.code_caches import CODEC, GEOMETRY, impulse_clip, label, write_impulse_cache
from ttt.errors import UserError
from ttt.snac.cache import shard_file
from ttt.snac.cache.shards import (
    CodecIdentity,
    build_index,
    read_shard_table,
    shard_names,
    write_shard,
)
from ttt.snac.cache.verify import verify_cache


def _index(cache: str) -> pa.Table:
    return pa.ipc.open_file(Path(cache, "index.arrow").read_bytes()).read_all()


def _shard(cache: str, number: int = 0) -> Path:
    return Path(cache, "shards", f"shard-{number:05d}.parquet")


@pytest.mark.parametrize("clips", [1, 64, 65, 130])
def test_every_audio_offset_is_where_the_value_lies(tmp_path: Path, clips: int) -> None:
    lengths = np.random.default_rng(clips).integers(1, 9, clips).tolist()
    cache = write_impulse_cache(tmp_path, [lengths])
    content = _shard(cache).read_bytes()
    index = _index(cache).to_pylist()
    assert pq.ParquetFile(_shard(cache)).num_row_groups == -(-clips // 64)
    for number, row in enumerate(index):
        offset, audio_bytes = row["audio_offset"], 2 * 4096 * lengths[number]
        assert struct.unpack_from("<i", content, offset - 4) == (audio_bytes,)
        audio = np.frombuffer(content[offset : offset + audio_bytes], "<i2")
        wanted = [label(number, t) for t in range(lengths[number])]
        assert audio[::4096].tolist() == wanted


def test_a_shard_holds_what_was_written(tmp_path: Path) -> None:
    clips = [impulse_clip(0, 3), impulse_clip(1, 5, missing_samples=4095)]
    write_shard(tmp_path / "a.parquet", clips, GEOMETRY, CODEC)
    rows = read_shard_table(tmp_path / "a.parquet").to_pylist()
    assert [row["clip_id"] for row in rows] == ["speaker/0000", "speaker/0001"]
    for row, clip in zip(rows, clips, strict=True):
        assert row["n_samples"] == clip.n_samples
        for scale, codes in enumerate(clip.codes):
            assert row[f"codes_{scale}"] == codes.tolist()
        audio = np.frombuffer(row["audio"], "<i2")
        assert len(audio) == GEOMETRY.samples_48k(row["n_coarse"])
        assert np.array_equal(audio[: clip.n_samples], clip.audio)
        assert not audio[clip.n_samples :].any()
        assert (row["gain_db"], row["lag_samples"]) == (0.5, 3)


def test_the_same_clips_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_impulse_cache(tmp_path / name, [[3, 70, 1], [5]])
    for file in ("shards/shard-00000.parquet", "index.arrow", "codes.bin"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_row_groups_end_at_the_byte_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_file, "ROW_GROUP_BYTES", 3 * 2 * 4096)
    cache = write_impulse_cache(tmp_path, [[1, 1, 1, 1, 5, 2]])
    metadata = pq.ParquetFile(_shard(cache)).metadata
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert counts == [3, 1, 1, 1]
    assert verify_cache(cache) == []


def test_codes_bin_holds_all_codes_interleaved(tmp_path: Path) -> None:
    cache = write_impulse_cache(tmp_path, [[2, 3], [4]])
    codes = np.fromfile(tmp_path / "codes.bin", "<i2").reshape(-1, 7)
    assert len(codes) == 9
    assert codes[3].tolist() == [1, 2, 3, 4, 5, 6, 7]  # token 1 of the second clip
    assert _index(cache)["codes_offset"].to_pylist() == [0, 2, 5]


def _bad(**changes: object) -> shard_file.Clip:
    return replace(impulse_clip(0, 3), **changes)


@pytest.mark.parametrize(
    ("clip", "sentence"),
    [
        (_bad(codes=tuple(np.zeros(n, np.int16) for n in (3, 6, 11))), "do not cover the same"),
        (_bad(codes=tuple(np.full(n, 4096, np.int16) for n in (3, 6, 12))), "outside 0 to 4095"),
        (_bad(audio=np.zeros(100, np.float32), n_samples=100), "audio is float32"),
        (_bad(audio=np.zeros(12289, np.int16), n_samples=12289), "its codes last 1 to 12288"),
    ],
)
def test_a_clip_that_does_not_fit_is_refused(
    tmp_path: Path, clip: shard_file.Clip, sentence: str
) -> None:
    with pytest.raises(UserError, match=f"clip speaker/0000: .*{sentence}"):
        write_shard(tmp_path / "a.parquet", [clip], GEOMETRY, CODEC)
    assert list(tmp_path.iterdir()) == []


# -- verify ----------------------------------------------------------------------------------------


def _flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def _drop_column(cache: str) -> None:
    table = pq.read_table(_shard(cache)).drop_columns(["gain_db"])
    pq.write_table(table, _shard(cache), compression="none", use_dictionary=False)


def _out_of_range(cache: str) -> None:
    table = pq.read_table(_shard(cache))
    codes = pa.array([[5000] * 3, [0] * 4], table.schema.field("codes_0").type)
    table = table.set_column(3, table.schema.field("codes_0"), codes)
    pq.write_table(table, _shard(cache), compression="none", use_dictionary=False)


def _other_codec(cache: str) -> None:
    write_shard(_shard(cache, 2), [impulse_clip(9, 3)], GEOMETRY, CodecIdentity("other", "1"))


DAMAGE = {
    "truncated": (
        lambda cache: _shard(cache).write_bytes(_shard(cache).read_bytes()[:-50]),
        "shard-00000.parquet: not a readable parquet file",
    ),
    "empty": (lambda cache: _shard(cache).write_bytes(b""), "not a readable parquet file"),
    "a sample changed": (
        lambda cache: _flip(_shard(cache), _index(cache)["audio_offset"][1].as_py() + 77),
        "clip speaker/0001: checksum differs",
    ),
    "column dropped": (_drop_column, "columns missing or of another type: gain_db"),
    "code out of range": (_out_of_range, "clip speaker/0000: a code is outside 0 to 4095"),
    "another codec": (_other_codec, "geometry or codec differs from shard-00000.parquet's"),
    "the same clip twice": (
        lambda cache: write_shard(_shard(cache, 2), [impulse_clip(1, 4)], GEOMETRY, CODEC),
        "clip speaker/0001: the same id is in shard-00000.parquet",
    ),
    "a shard removed": (lambda cache: _shard(cache, 1).unlink(), "index.arrow: differs"),
    "a code changed": (lambda cache: _flip(Path(cache, "codes.bin"), 8), "codes.bin: differs"),
    "no index": (lambda cache: Path(cache, "index.arrow").unlink(), "index.arrow: missing"),
    "index truncated": (
        lambda cache: Path(cache, "index.arrow").write_bytes(b"ARROW1"),
        "index.arrow: differs",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_verify_names_what_is_broken(tmp_path: Path, damage: str) -> None:
    cache = write_impulse_cache(tmp_path, [[3, 4], [5]])
    assert verify_cache(cache) == []
    apply, sentence = DAMAGE[damage]
    apply(cache)
    assert any(sentence in problem for problem in verify_cache(cache)), verify_cache(cache)


def test_an_empty_folder_is_no_cache(tmp_path: Path) -> None:
    assert "holds no .parquet shard" in verify_cache(tmp_path)[0]
    with pytest.raises(UserError, match=r"holds no \.parquet shard"):
        build_index(tmp_path)


def test_the_index_of_two_codecs_is_refused(tmp_path: Path) -> None:
    cache = write_impulse_cache(tmp_path, [[3]])
    _other_codec(cache)
    with pytest.raises(UserError, match="geometry or codec differs from shard-00000"):
        build_index(cache)
    assert not Path(cache, "index.arrow").exists()
    assert np.fromfile(Path(cache, "codes.bin"), "<i2").size == 21


def test_compressed_audio_has_no_offset(tmp_path: Path) -> None:
    cache = write_impulse_cache(tmp_path, [[3, 4]])
    pq.write_table(pq.read_table(_shard(cache)), _shard(cache), compression="zstd")
    build_index(cache)
    assert _index(cache)["audio_offset"].to_pylist() == [-1, -1]
    assert verify_cache(cache) == []


def test_a_cache_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent: no such cache; write it with ray_jobs\.cache"):
        shard_names(tmp_path / "absent")
    with pytest.raises(UserError, match=r"holds no \.parquet shard"):
        shard_names(tmp_path)
