from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.code_caches import CODEC, GEOMETRY, impulse_clip, label, write_impulse_cache
from ttt.errors import UserError
from ttt.files.ranged import OpenFiles
from ttt.snac.cache.index import CodeCache, DamagedClip, open_cache
from ttt.snac.cache.shards import build_index, write_shard

LENGTHS = [[12, 5], [9]]


def _check_content(cache: CodeCache) -> None:
    assert cache.geometry == GEOMETRY
    assert cache.codec == CODEC
    assert len(cache) == 3
    assert list(cache.catalogue.clip_ids) == ["speaker/0000", "speaker/0001", "speaker/0002"]
    assert cache.catalogue.clip_ids[1:] == ["speaker/0001", "speaker/0002"]
    assert cache.catalogue.n_coarse.tolist() == [12, 5, 9]
    assert cache.catalogue.n_samples.tolist() == [4096 * n - 100 for n in (12, 5, 9)]
    for row, n in enumerate((12, 5, 9)):
        for start in range(n):
            for count in (1, n - start):
                codes = cache.read_codes(row, start, count)
                audio = cache.read_audio(row, start * 4096, count * 4096)
                assert codes[:, 0].tolist() == list(range(start, start + count))
                assert audio[::4096].tolist() == [label(row, start + t) for t in range(count)]
                assert np.count_nonzero(audio) == count


def test_any_span_of_any_clip_is_read(tmp_path: Path) -> None:
    _check_content(open_cache(write_impulse_cache(tmp_path, LENGTHS)))


def test_a_cache_without_an_index_is_refused_until_it_is_built(tmp_path: Path) -> None:
    cache = write_impulse_cache(tmp_path, LENGTHS, index=False)
    with pytest.raises(UserError) as refusal:
        open_cache(cache)
    assert str(refusal.value) == (
        f"{cache}: has no index.arrow; build it with ray_jobs.cache_codes, which encodes only "
        "what is missing"
    )
    build_index(cache)
    _check_content(open_cache(cache))


def test_shards_that_another_program_compressed_are_refused(tmp_path: Path) -> None:
    cache = write_impulse_cache(tmp_path, LENGTHS)
    shard = tmp_path / "shards/shard-00001.parquet"
    pq.write_table(pq.read_table(shard), shard, compression="zstd")
    build_index(cache)
    with pytest.raises(UserError) as refusal:
        open_cache(cache)
    assert str(refusal.value) == (
        f"{cache}: another program has compressed its shards, so no window can be read out of "
        "them; cache again with ray_jobs.cache_codes"
    )


def test_many_clips_codes_are_gathered_with_zeros_past_their_ends(tmp_path: Path) -> None:
    cache = open_cache(write_impulse_cache(tmp_path, LENGTHS))
    codes, damaged = cache.gather_codes(np.array([0, 1]), np.array([4, 0]), 7)
    assert damaged == {}
    assert codes[0, :, 0].tolist() == [4, 5, 6, 7, 8, 9, 10]
    assert codes[0, 1].tolist() == [5, 10, 11, 20, 21, 22, 23]
    assert codes[1, :, 0].tolist() == [0, 1, 2, 3, 4, 0, 0]
    assert not codes[1, 5:].any()


def test_a_span_outside_the_clip_is_an_error(tmp_path: Path) -> None:
    cache = open_cache(write_impulse_cache(tmp_path, LENGTHS))
    with pytest.raises(ValueError, match=r"speaker/0001: span 3 to 6 is not inside 0 to 5"):
        cache.read_codes(1, 3, 3)
    with pytest.raises(ValueError, match=r"span -1 to 9 is not inside"):
        cache.read_audio(1, -1, 10)


def test_the_audio_of_another_shard_is_not_taken_for_the_clip(tmp_path: Path) -> None:
    """An index of a shard with the same size, but with its clips in another order."""
    cache = write_impulse_cache(tmp_path, [[4, 5]])
    shard = tmp_path / "shards/shard-00000.parquet"
    size = shard.stat().st_size
    write_shard(shard, [impulse_clip(0, 5), impulse_clip(1, 4)], GEOMETRY, CODEC)
    assert shard.stat().st_size == size
    with pytest.raises(DamagedClip, match=r"shard-00000.parquet: the index was made of another"):
        open_cache(cache).read_audio(1, 0, 10)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda shard: shard.unlink(), "shard-00001.parquet: missing"),
        (
            lambda shard: shard.write_bytes(shard.read_bytes()[:-1]),
            "shard-00001.parquet: .* bytes, but the index was made of",
        ),
    ],
)
def test_a_shard_that_does_not_match_damages_its_own_clips_only(
    tmp_path: Path, damage: object, reason: str
) -> None:
    cache = write_impulse_cache(tmp_path, LENGTHS)
    damage(tmp_path / "shards/shard-00001.parquet")  # pyright: ignore[reportCallIssue]
    opened = open_cache(cache)
    assert opened.read_audio(1, 0, 1).tolist() == [label(1, 0)]
    with pytest.raises(DamagedClip, match=reason):
        opened.read_audio(2, 0, 1)


def test_a_shard_truncated_while_it_is_open_is_a_short_read(tmp_path: Path) -> None:
    opened = open_cache(write_impulse_cache(tmp_path, LENGTHS))
    opened.read_audio(0, 0, 10)
    shard = tmp_path / "shards/shard-00000.parquet"
    with open(shard, "r+b") as file:
        file.truncate(20_000)
    with pytest.raises(DamagedClip, match=r"shard-00000.parquet: ends inside the clip"):
        opened.read_audio(0, 0, 12 * 4096)


def test_a_code_out_of_range_damages_its_clip(tmp_path: Path) -> None:
    cache = write_impulse_cache(tmp_path, LENGTHS)
    codes = np.fromfile(tmp_path / "codes.bin", "<i2")
    codes[7 * 12 + 3] = 4096
    codes.tofile(tmp_path / "codes.bin")
    opened = open_cache(cache)
    with pytest.raises(DamagedClip, match=r"codes.bin: a code is outside 0 to 4095"):
        opened.read_codes(1, 0, 5)
    codes, damaged = opened.gather_codes(np.arange(3), np.zeros(3, np.int64), 5)
    assert damaged == {1: "codes.bin: a code is outside 0 to 4095"}
    assert codes[2, :, 0].tolist() == [0, 1, 2, 3, 4]


def _new_shard(folder: Path) -> None:
    write_shard(folder / "shards/shard-00002.parquet", [impulse_clip(7, 3)], GEOMETRY, CODEC)


def _without_column(folder: Path) -> None:
    table = pa.ipc.open_file((folder / "index.arrow").read_bytes()).read_all()
    with pa.ipc.new_file(str(folder / "index.arrow"), table.drop_columns("row").schema) as writer:
        writer.write_table(table.drop_columns("row"))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_new_shard, r"index.arrow: does not know shard-00002.parquet, it is stale"),
        (_without_column, r"index.arrow: columns missing or of another type: row"),
        (lambda folder: (folder / "index.arrow").write_bytes(b"x" * 99), r"index.arrow: damaged"),
        (lambda folder: (folder / "codes.bin").write_bytes(b"xx"), r"codes.bin: not the 364 bytes"),
        (lambda folder: (folder / "codes.bin").unlink(), r"codes.bin: not the 364 bytes"),
    ],
)
def test_an_unusable_index_is_refused(tmp_path: Path, damage: object, sentence: str) -> None:
    cache = write_impulse_cache(tmp_path, LENGTHS)
    damage(tmp_path)  # pyright: ignore[reportCallIssue]
    with pytest.raises(UserError, match=sentence):
        open_cache(cache)


def test_a_foreign_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "shards/shard-00000.parquet")
    with pytest.raises(UserError, match=r"no ttt.format_version in its schema"):
        build_index(tmp_path)


def test_few_files_stay_open(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).write_bytes(bytes([number] * 8))
    files = OpenFiles(lambda number: str(tmp_path / str(number)), limit=2)
    held = files.get(0)
    out = np.empty(8, np.uint8)
    for number in (1, 2, 3, 4, 1, 0):
        files.get(number).read_into(0, out)
        assert out.tolist() == [number] * 8
    assert held.read_into(4, out) == 4  # dropped long ago, still open for its holder
