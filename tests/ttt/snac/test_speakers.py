import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.code_caches import CODEC, GEOMETRY, impulse_clip, write_impulse_cache
from ttt.errors import UserError
from ttt.snac.cache.index import open_cache
from ttt.snac.cache.inputs import ClipInput
from ttt.snac.cache.shards import (
    build_index,
    read_shard_table,
    shard_names,
    write_shard,
)
from ttt.snac.cache.speakers import folder_number, with_speakers
from ttt.snac.cache.verify import verify_cache


@pytest.mark.parametrize(
    ("rule", "speakers"),
    [
        ("folder:1", ["anna", "béla", "#3"]),
        ("folder:2", ["book 1", "b", "x"]),
        (None, [None, None, None]),
    ],
)
def test_the_folder_at_a_depth_is_the_speaker(rule: str | None, speakers: list[str]) -> None:
    inputs = [ClipInput(clip_id=name) for name in ("anna/book 1/a.wav", "béla/b/c/d.wav", "#3/x/y")]
    named = with_speakers(inputs, rule)
    assert [clip.speaker for clip in named] == speakers
    assert [clip.problem for clip in named] == [None, None, None]


def test_what_has_no_such_folder_is_left_out_and_keeps_an_earlier_reason() -> None:
    inputs = [
        ClipInput(clip_id="a/b/c.wav"),
        ClipInput(clip_id="a/c.wav"),
        ClipInput(clip_id="c.wav", problem="duplicate", problem_note="twice"),
    ]
    named = with_speakers(inputs, "folder:2")
    assert [clip.problem for clip in named] == [None, "no speaker", "duplicate"]
    assert named[1].problem_note == "speaker: folder:2 needs 2 folders above the file, it has 1"


def test_a_depth_that_no_input_has_is_refused_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"speaker: folder:1 needs 1 folder .* none of the 2 input"):
        with_speakers([ClipInput(clip_id="a.wav"), ClipInput(clip_id="b.wav")], "folder:1")


@pytest.mark.parametrize("rule", ["folder", "folder:0", "folder:-1", "folder:x", "name:1", "1", ""])
def test_rules_that_mean_nothing_are_refused(rule: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"got {rule!r}")):
        folder_number(rule)


def test_a_cache_tells_what_is_known_of_its_clips(tmp_path: Path) -> None:
    """Of two shards the second one knows nothing, as in a cache that is older than speakers."""
    known = [
        replace(impulse_clip(0, 5), speaker="anna", bandwidth_hz=12_000),
        replace(impulse_clip(1, 6), speaker=None, bandwidth_hz=None),
    ]
    write_shard(tmp_path / "shards/shard-00000.parquet", known, GEOMETRY, CODEC)
    write_shard(tmp_path / "shards/shard-00001.parquet", [impulse_clip(2, 4)], GEOMETRY, CODEC)
    build_index(tmp_path)
    assert verify_cache(tmp_path) == []
    cache = open_cache(tmp_path)
    assert cache.catalogue.speakers[:] == ["anna", None, None]
    assert [cache.catalogue.speakers[row] for row in range(3)] == ["anna", None, None]
    assert cache.catalogue.speakers[1:] == [None, None]
    np.testing.assert_equal(cache.catalogue.bandwidth_hz, [12_000, np.nan, np.nan])
    assert cache.read_codes(1, 0, 6)[:, 0].tolist() == list(range(6))
    assert cache.read_audio(2, 0, 4 * 4096)[0] == 121


def test_a_cache_that_knows_nothing_has_no_such_column(tmp_path: Path) -> None:
    cache = open_cache(write_impulse_cache(tmp_path, [[4, 5], [6]]))
    assert cache.catalogue.speakers[:] == [None, None, None]
    assert np.isnan(cache.catalogue.bandwidth_hz).all()
    (first, _) = shard_names(tmp_path)
    columns = read_shard_table(tmp_path / "shards" / first).schema.names
    assert not {"speaker", "bandwidth_hz"} & set(columns)


def test_an_index_with_speakers_of_another_type_is_refused(tmp_path: Path) -> None:
    clip = replace(impulse_clip(0, 5), speaker="anna")
    write_shard(tmp_path / "shards/shard-00000.parquet", [clip], GEOMETRY, CODEC)
    build_index(tmp_path)
    index = tmp_path / "index.arrow"
    table = pa.ipc.open_file(index.read_bytes()).read_all()
    place = table.schema.get_field_index("speaker")
    table = table.set_column(place, "speaker", pa.array([7]))
    with pa.OSFile(str(index), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match=r"index.arrow: columns .* of another type: speaker"):
        open_cache(tmp_path)
