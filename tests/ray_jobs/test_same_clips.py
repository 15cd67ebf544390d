"""A training goes on with the clips that it began with, not with as many others."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_jobs.config.load import load_config
from ray_jobs.decoder.train.plan import plan_training
from ray_jobs.decoder.train_config import TrainConfig
from tests.conftest import build_nano_snac
from tests.nano_cache import write_nano_cache
from tests.ray_jobs.nano_training import World, write_world
from ttt.errors import UserError
from ttt.snac.cache.index import open_cache
from ttt.snac.cache.shards import Clip, CodecIdentity, build_index, write_shard
from ttt.snac.geometry import CodeGeometry
from ttt.snac.load import weights_sha256
from ttt.snac.train.decoder import require_same_plan


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = write_world(tmp_path_factory.mktemp("world"))
    write_nano_cache(world.folder / "validation", 4)
    return world


def _plan(world: World, train: Path, validation: Path | None = None) -> dict[str, Any]:
    overrides = [f"data.train={train}", f"run={world.folder / 'run'}"]
    if validation is not None:
        overrides += [f"data.validation={validation}", "data.validation_share=null"]
    config = load_config(TrainConfig, world.config, overrides)
    return json.loads(json.dumps(plan_training(config).loop_settings().plan))


def _rewritten(cache: Path, to: Path, change: Callable[[list[Clip]], list[Clip]]) -> Path:
    """The clips of `cache`, changed, as another cache."""
    source, codec = open_cache(cache), build_nano_snac()
    geometry, clips = CodeGeometry.of(codec), []
    for row, clip_id in enumerate(source.catalogue.clip_ids[:]):
        n_coarse, n_samples = (
            int(lengths[row]) for lengths in (source.catalogue.n_coarse, source.catalogue.n_samples)
        )
        codes = tuple(np.zeros(length, np.int16) for length in geometry.lengths(n_coarse))
        clips.append(Clip(clip_id, codes, source.read_audio(row, 0, n_samples), n_samples))
    identity = CodecIdentity("nano", weights_sha256(codec))
    write_shard(to / "shards" / "shard-00000.parquet", change(clips), geometry, identity)
    build_index(to)
    return to


def _with_last(**fields: Any) -> Callable[[list[Clip]], list[Clip]]:
    return lambda clips: [*clips[:-1], dataclasses.replace(clips[-1], **fields)]


def _shorter(clips: list[Clip]) -> list[Clip]:
    last = clips[-1]
    n_samples = last.n_samples - 1
    return _with_last(audio=last.audio[:n_samples], n_samples=n_samples)(clips)


@pytest.mark.parametrize("part", ["training", "validation"])
@pytest.mark.parametrize(
    "change",
    [_with_last(clip_id="another"), _shorter, lambda clips: clips[::-1]],
    ids=["renamed", "shorter", "other order"],
)
def test_as_many_other_clips_are_refused(
    world: World, tmp_path: Path, part: str, change: Callable[[list[Clip]], list[Clip]]
) -> None:
    caches = {"training": world.folder / "cache", "validation": world.folder / "validation"}
    before = _plan(world, caches["training"], caches["validation"])
    caches[part] = _rewritten(caches[part], tmp_path / "other", change)
    now = _plan(world, caches["training"], caches["validation"])
    assert {**now, "clips_sha256": None} == {**before, "clips_sha256": None}
    with pytest.raises(UserError, match=rf"clips_sha256\.{part} was .* and is now"):
        require_same_plan("RUN", before, now)


def test_a_share_held_out_is_told_too(world: World, tmp_path: Path) -> None:
    before = _plan(world, world.folder / "cache")
    assert before["clips_sha256"]["training"] != before["clips_sha256"]["validation"]
    held_out = _rewritten(world.folder / "cache", tmp_path / "other", _with_last(clip_id="another"))
    with pytest.raises(UserError, match=r"was .* and is now"):
        require_same_plan("RUN", before, _plan(world, held_out))


def test_a_cache_elsewhere_and_a_plan_of_before_go_on(world: World, tmp_path: Path) -> None:
    before = _plan(world, world.folder / "cache")
    moved = shutil.copytree(world.folder / "cache", tmp_path / "moved")
    require_same_plan("RUN", before, _plan(world, moved))
    other = _rewritten(moved, tmp_path / "other", lambda clips: clips)
    without = {key: value for key, value in before.items() if key != "clips_sha256"}
    require_same_plan("RUN", without, _plan(world, other))
    assert _plan(world, other)["clips_sha256"] == before["clips_sha256"]
