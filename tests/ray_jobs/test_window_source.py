"""Windows through Ray Data: the plan's batches in the plan's order, and nothing else."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.train
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ray_jobs.decoder.train.window_stream import (
    WindowStream,
    to_micro_batch,
    to_table,
)
from ray_jobs.training import spans
from ray_jobs.training.ray_source import (
    RayBatchSource,
    batch_data_config,
    batch_dataset,
    named,
    start_cursor,
)
from ray_jobs.training.spans import Span, block_size, blocks_of
from ray_jobs.training.stream import EpochBatches
from tests.code_caches import GEOMETRY, write_impulse_cache
from ttt.snac.cache.index import open_cache
from ttt.snac.train.window_reader import LocalWindowSource, MicroBatch, WindowReader
from ttt.snac.train.windows import WindowShape
from ttt.training.micro_batches import BatchId

SHAPES = (
    WindowShape(core_coarse=6, context_coarse=2, clips_per_micro_batch=2, micro_batches_per_step=4),
    WindowShape(
        core_coarse=12,
        context_coarse=2,
        clips_per_micro_batch=1,
        micro_batches_per_step=4,
        windows_per_clip="length",
    ),
)
LENGTHS = [np.random.default_rng(shard).integers(3, 40, 25).tolist() for shard in range(2)]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> WindowStream:
    """A cache of 50 clips, two shards of which one has lost its end."""
    folder = tmp_path_factory.mktemp("cache")
    uri = write_impulse_cache(folder, LENGTHS)
    shard = folder / "shards/shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-10])
    return WindowStream.of(open_cache(uri), 9000, 3, SHAPES)


def _local(spec: WindowStream, rank: int = 0, world_size: int = 1) -> LocalWindowSource:
    cache = open_cache(spec.cache_uri)
    plan = spec.plan(cache)
    return LocalWindowSource(WindowReader(cache, plan), plan, spec.shapes, rank, world_size)


def _ray(
    batches: Any, cursor: str, spec: WindowStream, **options: int
) -> RayBatchSource[MicroBatch]:
    return RayBatchSource(batches, cursor, spec, **options)


def _id(batch: MicroBatch) -> BatchId:
    assert batch.id is not None
    return batch.id


def _assert_same(found: list[list[MicroBatch]], wanted: list[list[MicroBatch]]) -> None:
    assert [[b.id for b in step] for step in found] == [[b.id for b in step] for step in wanted]
    for step, other_step in zip(found, wanted, strict=True):
        for batch, other in zip(step, other_step, strict=True):
            for name in ("codes", "audio", "core_start", "valid_samples"):
                assert torch.equal(getattr(batch, name), getattr(other, name)), (batch.id, name)
            assert (batch.clip_ids, batch.replaced) == (other.clip_ids, other.replaced)


def test_a_micro_batch_survives_the_table(spec: WindowStream) -> None:
    steps = [*_local(spec).step_batches(1), *_local(spec).step_batches(2)]
    assert any(batch.replaced for step in steps for batch in step)
    for step in steps:
        _assert_same([[to_micro_batch(_id(batch), to_table(batch)) for batch in step]], [step])


def test_blocks_take_turns_over_the_ranks_and_all_ranks_have_the_same_rows() -> None:
    for world_size, block in itertools.product((1, 2, 4), (1, 2, 3, 100)):
        blocks = blocks_of(Span(2, 1, 6, world_size, block), micro_batches_per_step=4)
        turns = [blocks[at : at + world_size] for at in range(0, len(blocks), world_size)]
        assert all(len({len(each) for each in turn}) == 1 for turn in turns), "Ray would cut one"
        for rank in range(world_size):
            found = [batch for turn in turns for batch in turn[rank]]
            micros = range(rank, 4, world_size)
            assert found == [BatchId(2, step, m) for step in range(1, 6) for m in micros]


def test_a_block_is_bounded_and_so_is_a_block_for_every_rank() -> None:
    audio_bytes = 2 * 32 * GEOMETRY.samples_48k(12)
    batches = EpochBatches(9, 4, audio_bytes)
    assert block_size(batches) == spans.BLOCK_BYTES // audio_bytes == 4
    assert block_size(batches, 8) == 4
    assert block_size(batches, 32) == 1
    for world_size in (1, 10, 64):
        total = world_size * block_size(batches, world_size) * audio_bytes
        assert total <= max(spans.ROUND_BYTES, world_size * audio_bytes)
    assert block_size(EpochBatches(9, 4, 60 * audio_bytes)) == 1


def test_a_stream_counts_the_plans_steps_and_the_audio_of_a_batch(spec: WindowStream) -> None:
    plan = spec.plan(open_cache(spec.cache_uri))
    for shape, counted in zip(SHAPES, spec.epochs, strict=True):
        assert counted.steps == plan.steps(shape) > 1
        assert counted.micro_batches_per_step == 4
        windows = plan.windows(shape, BatchId(1, 0, 0))
        assert counted.micro_batch_bytes == 2 * len(windows) * GEOMETRY.samples_48k(
            windows.core_coarse
        )


def test_ray_gives_what_one_process_gives(ray_local: None, spec: WindowStream) -> None:
    """Two epochs of different shapes, in spans of two steps, then a resume inside an epoch."""
    cursor = start_cursor(spec)
    source = _ray(batch_dataset(cursor), cursor, spec, span_micro_batches=8)
    for epoch, first_step in ((1, 0), (2, 0), (1, 4)):
        found = list(source.step_batches(epoch, first_step))
        _assert_same(found, list(_local(spec).step_batches(epoch, first_step)))
    steps = source.step_batches(2)
    abandoned = [next(steps)]
    steps.close()  # pyright: ignore[reportAttributeAccessIssue]
    _assert_same(abandoned, list(_local(spec).step_batches(2))[:1])
    _assert_same(list(source.step_batches(2)), list(_local(spec).step_batches(2)))


def test_a_plan_of_some_rows_is_followed_by_the_read_tasks(
    ray_local: None, spec: WindowStream
) -> None:
    some = WindowStream.of(open_cache(spec.cache_uri), 9000, 3, SHAPES, np.arange(0, 25, 2))
    cursor = start_cursor(some)
    found = list(_ray(batch_dataset(cursor), cursor, some).step_batches(1))
    _assert_same(found, list(_local(some).step_batches(1)))
    clips = {clip_id for step in found for batch in step for clip_id in batch.clip_ids}
    assert clips <= {f"speaker/{row:04d}" for row in range(0, 25, 2)}


class _Elsewhere:
    """Tables as Ray would send them, but in another order or too many."""

    def __init__(self, batches: list[MicroBatch]) -> None:
        self._batches = batches

    def iter_batches(self, **options: object) -> Iterator[Any]:
        return (named(_id(batch), to_table(batch)) for batch in self._batches)


def test_another_order_than_the_plans_stops_the_run(ray_local: None, spec: WindowStream) -> None:
    cursor = start_cursor(spec)
    batches = [batch for step in _local(spec).step_batches(1) for batch in step]
    swapped = [*batches[:5], batches[6], batches[5], *batches[7:]]
    steps = _ray(_Elsewhere(swapped), cursor, spec).step_batches(1)
    next(steps)
    with pytest.raises(RuntimeError, match=r"sent .*micro=2\) where the plan has .*micro=1\)"):
        next(steps)
    with pytest.raises(RuntimeError, match=r"sent None where the plan has"):
        list(_ray(_Elsewhere(batches[:-1]), cursor, spec).step_batches(1))
    with pytest.raises(RuntimeError, match=r"after the span's last micro-batch"):
        list(_ray(_Elsewhere([*batches, batches[0]]), cursor, spec).step_batches(1))


def _train(config: dict[str, Any]) -> None:
    context = ray.train.get_context()
    source = _ray(
        ray.train.get_dataset_shard("train"),
        config["cursor"],
        config["spec"],
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        span_micro_batches=12,
    )
    found = []
    for start, block_bytes in zip(config["starts"], config["block_bytes"], strict=True):
        spans.BLOCK_BYTES = block_bytes
        found.append(list(source.step_batches(*start)))
    torch.save(found, Path(config["folder"]) / f"rank{context.get_world_rank()}.pt")


def test_two_train_workers_share_the_plan(
    ray_local: None, spec: WindowStream, tmp_path: Path
) -> None:
    """Rank r gets micro-batches r, r + 2 of every step; also when resumed inside an epoch.

    In blocks of all that a span has, of four micro-batches (of a span's six, so that the last
    block is shorter), of three (ending inside a step) and of one.
    """
    cursor = start_cursor(spec)
    starts = [(1, 0), (2, 0), (1, 3), (2, 0), (1, 0), (1, 1)]
    first, second = (
        2 * shape.clips_per_micro_batch * GEOMETRY.samples_48k(shape.core_coarse)
        for shape in SHAPES
    )
    block_bytes = [2**20, 2**20, 2**20, 4 * second, 3 * first, first]
    config = {
        "cursor": cursor,
        "spec": spec,
        "starts": starts,
        "block_bytes": block_bytes,
        "folder": str(tmp_path),
    }
    trainer = TorchTrainer(
        _train,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(name="windows", storage_path=str(tmp_path / "run")),
        datasets={"train": lambda: batch_dataset(cursor)},
        dataset_config=batch_data_config(),
    )
    trainer.fit()
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=False)
        for (epoch, first_step), steps in zip(starts, found, strict=True):
            wanted = _local(spec, rank, world_size=2).step_batches(epoch, first_step)
            _assert_same(steps, list(wanted))
