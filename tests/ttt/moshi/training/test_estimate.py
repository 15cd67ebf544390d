"""What training takes by sum. The bytes are held to counted ones in tests/fake_cuda."""

from __future__ import annotations

import copy
import dataclasses
import gc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from moshi.models.lm import LMModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.sizes import SHAPE_7B
from tests.ttt.conftest import _small_lm
from ttt.errors import UserError
from ttt.moshi import tiny_lm
from ttt.moshi.streaming.streams import Streams
from ttt.moshi.training import (
    MemoryConfig,
    MoshiTrainingConfig,
    freeze_base,
    insert_trained,
    sparing,
    training_nll,
)
from ttt.moshi.training.config import (
    LoRAConfig,
    MoshiOptimConfig,
    TTTLayersConfig,
    WindowStageConfig,
)
from ttt.moshi.training.estimate import (
    advice,
    frame_flops,
    gpu_hours,
    training_bytes,
    validation_bytes,
)
from ttt.moshi.training.estimate.need import HEAD_BLOCK
from ttt.moshi.training.estimate.pieces import pairs_and_keys
from ttt.moshi.training.exported.forms import exported_form
from ttt.moshi.training.loss import weighed

ALL = MemoryConfig(checkpoint_layers=True, checkpoint_mini_batches="auto", head_block=HEAD_BLOCK)


def config(
    memory: MemoryConfig, frames: int, layers: tuple[int, ...] = (1, 2), **more: Any
) -> MoshiTrainingConfig:
    more = {"ttt": TTTLayersConfig(layers=layers), **more}
    stages = (WindowStageConfig(frames=frames, steps=1, frames_per_step=frames),)
    return MoshiTrainingConfig(stages=stages, text="pad", other="masked", memory=memory, **more)


@pytest.fixture(scope="module")
def moshi_7b() -> LMModel:
    with torch.device("meta"):
        return tiny_lm(**SHAPE_7B, device="meta", dtype=torch.bfloat16)


def test_a_chapter_of_32_minutes_is_trained_on_one_card(moshi_7b):
    wanted = config(ALL, 24_000, tuple(range(8, 24)))
    need = training_bytes(moshi_7b, wanted, 24_000)
    assert 55e9 < need.total <= 75e9
    assert 15e9 < need.base < 16e9
    assert need.optimizer == 2 * need.trained
    parts = [
        getattr(need, field.name) for field in dataclasses.fields(need) if field.name != "moment"
    ]
    assert sum(parts) == need.total
    assert need.sentence().startswith(f"{need.total / 1e9:.1f} GB at most, at the backward pass of")
    assert training_bytes(moshi_7b, wanted, 24_000, windows=2).total > need.total
    averaged = dataclasses.replace(wanted, optim=MoshiOptimConfig(ema_decay=0.99))
    assert training_bytes(moshi_7b, averaged, 24_000).total == need.total + need.trained


def test_nothing_is_advised_where_it_fits(moshi_7b):
    plain = config(MemoryConfig(), 375, tuple(range(8, 24)))
    need = training_bytes(moshi_7b, plain, 375)
    found = advice(moshi_7b, plain, 375, 1, need.total)
    assert (found.needed, found.fits, found.need) == ({}, True, need)


def test_more_is_computed_anew_the_less_room_there_is(moshi_7b):
    plain = config(MemoryConfig(), 1_250, tuple(range(8, 24)))
    room, counts, last = 10**13, [], None
    while (found := advice(moshi_7b, plain, 1_250, 1, room)).fits:
        again = dataclasses.replace(plain, memory=found.memory)
        assert training_bytes(moshi_7b, again, 1_250) == found.need
        assert found.need.total <= room
        counts.append(len(found.needed))
        last, room = found, found.need.total - 1
    assert counts[0] == 0
    assert len(counts) > 2
    assert last is not None
    assert found.need == last.need, "what takes the least is named where nothing fits"
    for key, value in found.needed.items():
        assert value == getattr(ALL, key)


def test_what_is_configured_stays(moshi_7b):
    wanted = config(MemoryConfig(head_block=100), 24_000, tuple(range(8, 24)))
    found = advice(moshi_7b, wanted, 24_000, 1, 75_000_000_000)
    assert found.fits
    assert found.memory.head_block == 100
    assert found.needed == {"checkpoint_layers": True, "checkpoint_mini_batches": "auto"}


def test_what_does_not_fit_the_model_is_refused(moshi_7b):
    shape = TTTLayersConfig(layers=(1,), num_heads=3)
    with pytest.raises(UserError, match="ttt:"):
        training_bytes(moshi_7b, config(ALL, 375, ttt=shape), 375)


def test_no_sum_is_made_up_for_lact(moshi_7b):
    shape = TTTLayersConfig(layers=(1,), flavour="lact", mini_batch_size=256, rope_theta=None)
    with pytest.raises(UserError, match="lact takes is not summed yet"):
        training_bytes(moshi_7b, config(ALL, 1_250, ttt=shape), 1_250)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "more",
    [
        {"ttt": TTTLayersConfig(layers=(1, 2))},
        {"ttt": None, "lora": LoRAConfig(rank=8)},
        {"lora": LoRAConfig(rank=4, targets=("in_projs", "gating"))},
    ],
)
def test_the_copies_of_a_validation_are_those_that_live(own_process, more, dtype):
    own_process.submit(_hold_to_what_lives, more, dtype).result()


@pytest.fixture(scope="module")
def own_process():
    """A process in which nothing lives that other tests have left behind."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield pool


def _hold_to_what_lives(more: dict[str, Any], dtype: torch.dtype) -> None:
    lm = _small_lm(None, num_layers=4, dim=64, dtype=dtype)
    wanted = config(MemoryConfig(), 96, **more)
    summed = validation_bytes(copy.deepcopy(lm).to("meta"), wanted, 96, 16)
    insert_trained(lm, wanted)
    trained = sum(p.nbytes for named in freeze_base(lm).values() for p in named.values())
    before = _living_bytes()
    with exported_form(lm):
        assert _living_bytes() - before == summed.copies
    assert _living_bytes() == before
    assert summed.optimizer == 2 * trained
    assert summed.model == sum(each.nbytes for each in (*lm.parameters(), *lm.buffers()))
    assert 0 < summed.hearing < validation_bytes(_meta(lm, dtype), wanted, 96, 64).hearing


def _meta(lm: LMModel, dtype: torch.dtype) -> LMModel:
    return _small_lm(None, num_layers=4, dim=lm.dim, dtype=dtype).to("meta")


def _living_bytes() -> int:
    gc.collect()
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in tensors}
    return sum(storage.nbytes() for place, storage in storages.items() if place)


def test_validation_of_the_7b_fits_a_card_beside_its_training(moshi_7b):
    wanted = config(ALL, 24_000, tuple(range(8, 24)), lora=LoRAConfig(rank=128))
    need = validation_bytes(moshi_7b, wanted, 6_000, 64)
    assert 12e9 < need.copies < 16e9
    assert 40e9 < need.total < 75e9
    assert need.sentence().startswith(f"{need.total / 1e9:.1f} GB at most (model ")


@pytest.mark.parametrize(
    "frames, context, block", [(7, 3, 2), (24, 5, 8), (9, None, 4), (8, 20, 8), (31, 1, 3)]
)
def test_pairs_are_those_that_a_block_looks_at(frames, context, block):
    pairs = keys = 0
    for start in range(0, frames, block) if frames > block else [0]:
        queries = range(start, min(frames, start + block)) if frames > block else range(frames)
        seen = {
            key
            for query in queries
            for key in range(query + 1)
            if context is None or frames <= block or query - key < context
        }
        pairs, keys = pairs + len(queries) * len(seen), keys + len(seen)
    assert pairs_and_keys(frames, context, block) == (pairs, keys)


@pytest.mark.parametrize("memory", [MemoryConfig(), dataclasses.replace(ALL, head_block=24)])
@pytest.mark.parametrize(
    "more",
    [
        {"ttt": TTTLayersConfig(layers=(1, 2))},
        {"ttt": TTTLayersConfig(layers=(0, 3), kind="linear", mini_batch_size=8)},
        {"ttt": None, "lora": LoRAConfig(rank=8)},
        {"lora": LoRAConfig(rank=4, targets=("in_projs", "gating"))},
    ],
)
def test_operations_are_those_that_torch_counts(memory, more):
    """But for attention, whose operator on a CPU torch does not count."""
    frames = 96
    lm = _small_lm(None, num_layers=4, dim=64, context=24)
    wanted = config(memory, frames, **more)
    summed = frame_flops(lm, wanted, frames)
    insert_trained(lm, wanted)
    freeze_base(lm)
    codes = torch.zeros(1, 8, frames, dtype=torch.int64)
    counted = FlopCounterMode(display=False)
    with counted, sparing(lm, memory, frames):
        streams = Streams(lm, codes, text_stream="pad", other_stream="masked")
        nll = training_nll(lm, streams, head_block=memory.head_block)
        total, weight = weighed(nll, ~nll.isnan(), 100)
        (total / weight).backward()
    a_frame = counted.get_total_flops() / frames
    assert summed.total - summed.attention == pytest.approx(a_frame, rel=0.05)


def test_hours_follow_from_operations(moshi_7b):
    flops = frame_flops(moshi_7b, config(ALL, 24_000, tuple(range(8, 24))), 24_000)
    hours = gpu_hours(flops, 577, 0.4)
    seconds_a_frame = flops.on_tensor_cores / (0.4 * 989e12) + flops.fast_weights / (0.4 * 67e12)
    assert hours == pytest.approx(577 * 3600 * 12.5 * seconds_a_frame / 3600)
    assert flops.temporal > 0.5 * flops.total
    assert gpu_hours(flops, 577, 0.2) == pytest.approx(2 * hours)
