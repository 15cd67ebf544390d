import dataclasses
import functools
import operator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.code_caches import CODEC, GEOMETRY, impulse_clip, label, write_impulse_cache
from tests.object_store import ObjectStore
from ttt import retries, storage
from ttt.errors import UserError
from ttt.snac.cache.index import open_cache
from ttt.snac.cache.shards import build_index, write_shard
from ttt.snac.train.window_reader import LocalWindowSource, MicroBatch, WindowReader
from ttt.snac.train.windows import WindowPlan, WindowShape
from ttt.training.micro_batches import BatchId

SHAPE = WindowShape(
    core_coarse=6, context_coarse=2, clips_per_micro_batch=4, micro_batches_per_step=2
)
SHORTER = WindowShape(
    core_coarse=3, context_coarse=2, clips_per_micro_batch=8, micro_batches_per_step=2
)
LENGTHS = [[10, 11, 25, 3, 40, 17, 22, 8], [30, 9, 12, 14, 33, 5, 19, 28]]


def _source(
    uri: str, seed: int = 5, rank: int = 0, world_size: int = 1, **options: object
) -> LocalWindowSource:
    cache = open_cache(uri)
    catalogue = cache.catalogue
    plan = WindowPlan(catalogue.n_coarse, catalogue.n_samples, cache.geometry, 9000, seed)
    reader = WindowReader(cache, plan, **options)  # pyright: ignore[reportArgumentType]
    return LocalWindowSource(reader, plan, (SHAPE, SHORTER, SHAPE), rank, world_size)


def _all(source: LocalWindowSource) -> list[MicroBatch]:
    return [batch for epoch in (1, 2, 3) for step in source.step_batches(epoch) for batch in step]


def _assert_same(batches: list[MicroBatch], others: list[MicroBatch]) -> None:
    assert [batch.id for batch in batches] == [batch.id for batch in others]
    for batch, other in zip(batches, others, strict=True):
        for name in ("codes", "audio", "core_start", "valid_samples"):
            assert torch.equal(getattr(batch, name), getattr(other, name)), (batch.id, name)
        assert batch.clip_ids == other.clip_ids
        assert batch.replaced == other.replaced


@pytest.fixture(scope="module")
def impulses(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_impulse_cache(tmp_path_factory.mktemp("impulses"), LENGTHS)


def test_audio_and_all_scales_of_a_window_are_of_the_same_time(impulses: str) -> None:
    """Invariant 1: for every window the impulse and the codes name the same token."""
    batches = _all(_source(impulses))
    assert sum(len(batch.clip_ids) for batch in batches) == 3 * 16
    for batch in batches:
        core = batch.audio.shape[1] // 4096
        assert batch.codes.shape[1] == core + 4
        for row, clip_id in enumerate(batch.clip_ids):
            number = int(clip_id.removeprefix("speaker/"))
            n_coarse = functools.reduce(operator.iadd, LENGTHS, [])[number]
            start = int(batch.core_start[row])
            slice_start = int(batch.codes[row, 0, 0])
            present = min(core, n_coarse - slice_start - start)
            for t in range(present):
                token = slice_start + start + t
                assert batch.audio[row, t * 4096] == label(number, token)
                wanted = [
                    token,
                    *(2 * token + i for i in (0, 1)),
                    *(4 * token + i for i in range(4)),
                ]
                assert batch.codes[row, start + t].tolist() == wanted
            assert int(batch.audio[row].count_nonzero()) == min(
                core, n_coarse - slice_start - start
            )


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("core_coarse", [3, 6, 13])
def test_an_epoch_reads_every_real_sample_once_but_the_ends(
    tmp_path: Path, core_coarse: int, world_size: int
) -> None:
    """Ramps whose every sample names its place: the loss counts none twice and no other one."""
    lengths, missing = [10, 40, 3, 25, 64, 7], 1500
    clips = []
    for number, n_coarse in enumerate(lengths):
        clip = impulse_clip(number, n_coarse, missing)
        ramp = np.arange(clip.n_samples) % 65_536 - 32_768
        clips.append(dataclasses.replace(clip, audio=ramp.astype(np.int16)))
    write_shard(tmp_path / "shards/shard-00000.parquet", clips, GEOMETRY, CODEC)
    build_index(str(tmp_path))
    cache = open_cache(str(tmp_path))
    catalogue, reach = cache.catalogue, 9000
    plan = WindowPlan(catalogue.n_coarse, catalogue.n_samples, GEOMETRY, reach, seed=5)
    shape = WindowShape(core_coarse, 2, 2, 2, "length")
    heard = [np.zeros(clip.n_samples, int) for clip in clips]
    for rank in range(world_size):
        source = LocalWindowSource(WindowReader(cache, plan), plan, [shape] * 2, rank, world_size)
        for batches in source.step_batches(2):
            for batch in batches:
                for row, clip_id in enumerate(batch.clip_ids):
                    number = int(clip_id.removeprefix("speaker/"))
                    first = int(batch.codes[row, 0, 0]) + int(batch.core_start[row])
                    places = first * 4096 + np.arange(int(batch.valid_samples[row]))
                    assert np.array_equal(
                        batch.audio[row].numpy()[: len(places)], places % 65_536 - 32_768
                    )
                    heard[number][places] += 1
    assert max(times.max() for times in heard) == 1
    assert sum(times.sum() for times in heard) == plan.heard_samples(shape, 2)
    core = core_coarse * 4096
    left_over = plan.count(shape) - plan.steps(shape) * shape.clips_per_step
    away = [
        times[core:-core] for times, n in zip(heard, lengths, strict=True) if n >= core_coarse + 4
    ]
    assert sum((times == 0).sum() for times in away) <= left_over * core
    assert left_over < 4


def test_a_clip_shorter_than_the_slice_is_padded_with_zeros(impulses: str) -> None:
    seen = 0
    for batch in _all(_source(impulses)):
        for row, clip_id in enumerate(batch.clip_ids):
            if clip_id == "speaker/0003" and batch.codes.shape[1] == 10:
                seen += 1
                assert batch.codes[row, :, 0].tolist() == [0, 1, 2] + [0] * 7
                assert not batch.codes[row, 3:].any()
                assert not batch.audio[row, 3 * 4096 :].any()
                assert int(batch.valid_samples[row]) == 3 * 4096 - 9000
    assert seen == 2


def test_ranks_share_the_batches_of_one_worker(impulses: str) -> None:
    alone = list(_source(impulses).step_batches(1))
    ranks = [list(_source(impulses, rank=rank, world_size=2).step_batches(1)) for rank in (0, 1)]
    for step, batches in enumerate(alone):
        _assert_same(batches, [batch for rank in ranks for batch in rank[step]])


def test_starting_in_the_middle_of_an_epoch_changes_nothing(impulses: str) -> None:
    whole = list(_source(impulses).step_batches(3))
    rest = list(_source(impulses).step_batches(3, first_step=1))
    assert len(whole) == 2
    _assert_same(whole[1], rest[0])


def test_abandoning_an_epoch_stops_its_thread(impulses: str) -> None:
    source = _source(impulses)
    steps = source.step_batches(1)
    first = next(steps)
    steps.close()  # pyright: ignore[reportAttributeAccessIssue]
    _assert_same(first, next(source.step_batches(1)))


def test_reused_buffers_hold_the_same_and_are_reused(impulses: str) -> None:
    cache = open_cache(impulses)
    plan = WindowPlan(cache.catalogue.n_coarse, cache.catalogue.n_samples, cache.geometry, 9000, 5)
    fresh = WindowReader(cache, plan)
    reusing = WindowReader(cache, plan, reused_batches=2)
    addresses = []
    for epoch, shape in ((1, SHAPE), (1, SHORTER), (2, SHAPE), (3, SHAPE)):
        for step in range(plan.steps(shape)):
            for micro in (0, 1):
                id = BatchId(epoch, step, micro)
                windows = plan.windows(shape, id)
                batch = reusing.read(windows, id)
                _assert_same([batch], [fresh.read(windows, id)])
                addresses.append(batch.audio.data_ptr())
    assert addresses[-1] == addresses[-3] != addresses[-2]


# -- the same batches, however the cache is stored -------------------------------------------------


def test_of_a_cache_in_memory_the_batches_are_the_same(impulses: str) -> None:
    remote = write_impulse_cache("memory://caches/impulses", LENGTHS)
    _assert_same(_all(_source(impulses)), _all(_source(remote)))
    storage.delete("memory://caches")


def test_of_a_cache_on_s3_the_batches_are_the_same(
    impulses: str, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while every third request fails: no clip is taken for damaged."""
    monkeypatch.setattr(retries, "RETRY_PAUSES_SECONDS", (0.01,) * 20)
    remote = write_impulse_cache(object_store.uri("impulses"), LENGTHS)
    object_store.fails = lambda _method, _path: len(object_store.requests) % 3 == 0
    _assert_same(_all(_source(impulses)), _all(_source(remote)))
    assert object_store.refused


def test_a_store_that_stays_away_stops_the_run_and_replaces_no_clip(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "RETRY_PAUSES_SECONDS", (0.01,))
    source = _source(write_impulse_cache(object_store.uri("impulses"), LENGTHS))
    object_store.fails = lambda _method, _path: True
    with pytest.raises(retries.StorageUnavailable, match="failed 2 times in a row"):
        next(source.step_batches(1))
    object_store.fails = lambda _method, _path: False
    assert next(source.step_batches(1))[0].replaced == []


# -- damaged clips ---------------------------------------------------------------------------------


def _truncate(folder: Path) -> None:
    shard = folder / "shards/shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1000])


def _bad_code(folder: Path) -> None:
    codes = np.fromfile(folder / "codes.bin", "<i2")
    codes[7 * 60 : 7 * 85] = 32_000
    codes.tofile(folder / "codes.bin")


def _exchange_shards(folder: Path) -> None:
    """The index is then of another cache: sizes and lengths of both shards are wrong."""
    first, second = (folder / f"shards/shard-0000{i}.parquet" for i in (0, 1))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes()[:-8])
    second.write_bytes(content[:-8])


DAMAGE = {
    "truncated shard": (_truncate, "bytes, but the index was made of"),
    "code out of range": (_bad_code, "codes.bin: a code is outside 0 to 4095"),
    "missing shard": (
        lambda folder: (folder / "shards/shard-00001.parquet").unlink(),
        "shard-00001.parquet: missing",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_clips_are_replaced_alike_every_time_and_named(
    impulses: str, tmp_path: Path, damage: str
) -> None:
    cache = write_impulse_cache(tmp_path, LENGTHS)
    apply, reason = DAMAGE[damage]
    apply(tmp_path)
    sound = _all(_source(impulses))
    batches = _all(_source(cache))
    _assert_same(batches, _all(_source(cache)))
    replaced = [replacement for batch in batches for replacement in batch.replaced]
    assert replaced
    for batch, original in zip(batches, sound, strict=True):
        by_clip = {replacement.wanted: replacement for replacement in batch.replaced}
        for row, clip_id in enumerate(original.clip_ids):
            if clip_id not in by_clip:
                assert batch.clip_ids[row] == clip_id
                assert torch.equal(batch.codes[row], original.codes[row])
                assert torch.equal(batch.audio[row], original.audio[row])
                continue
            replacement = by_clip[clip_id]
            assert reason in replacement.reason
            assert batch.clip_ids[row] == replacement.used != clip_id
            number, token = int(replacement.used[-4:]), int(batch.codes[row, 0, 0])
            token += int(batch.core_start[row])
            assert batch.audio[row, 0] == label(number, token)


def test_a_validation_batch_replaces_without_an_epoch(tmp_path: Path) -> None:
    cache_uri = write_impulse_cache(tmp_path, LENGTHS)
    _truncate(tmp_path)
    cache = open_cache(cache_uri)
    catalogue = cache.catalogue
    found = []
    for seed in (1, 2):
        plan = WindowPlan(catalogue.n_coarse, catalogue.n_samples, cache.geometry, 9000, seed)
        windows = WindowPlan(
            catalogue.n_coarse, catalogue.n_samples, cache.geometry, 9000, 0
        ).windows(SHAPE, BatchId(1, 0, 0))
        found.append(WindowReader(cache, plan).read(windows, None))
    assert found[0].replaced
    _assert_same(found[:1], found[1:])


def test_when_nothing_can_be_read_the_run_stops(tmp_path: Path) -> None:
    cache = write_impulse_cache(tmp_path, LENGTHS)
    _exchange_shards(tmp_path)
    with pytest.raises(UserError, match=r"cannot be read .*, nor any of .* others"):
        next(_source(cache).step_batches(1))
