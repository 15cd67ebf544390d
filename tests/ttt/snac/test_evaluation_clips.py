"""Clips to measure know who speaks, wherever they come from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.code_caches import CODEC, GEOMETRY, impulse_clip
from ttt.snac.cache.inputs import QualityConfig
from ttt.snac.cache.shards import build_index, write_shard
from ttt.snac.cache.sources import list_folder
from ttt.snac.cache.speakers import with_speakers
from ttt.snac.evaluate import Unmeasurable
from ttt.snac.evaluation.clips import CachedClip, ClipReader
from ttt.snac.load import load_codec


def test_a_cache_tells_the_speakers_it_knows(tmp_path: Path) -> None:
    clips = [replace(impulse_clip(0, 5), speaker="anna"), impulse_clip(1, 5)]
    write_shard(tmp_path / "shards/shard-00000.parquet", clips, GEOMETRY, CODEC)
    build_index(tmp_path)
    reader = ClipReader(load_codec("tiny"), str(tmp_path), QualityConfig())
    speakers = [
        reader.read(CachedClip(clip.clip_id, row)).speaker for row, clip in enumerate(clips)
    ]
    assert speakers == ["anna", None]


def test_a_folder_tells_its_speakers_and_what_has_none_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "anna").mkdir()
    for name in ("anna/a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.random.default_rng(0).normal(0, 0.1, 24_000), 48_000)
    reader = ClipReader(load_codec("tiny"), None, QualityConfig())
    named = with_speakers(list_folder(str(tmp_path)), "folder:1")
    assert reader.read(named[0]).speaker == "anna"
    with pytest.raises(Unmeasurable, match=r"no speaker: speaker: folder:1 needs 1 folder"):
        reader.read(named[1])
    assert [reader.read(clip).speaker for clip in list_folder(str(tmp_path))] == [None, None]
