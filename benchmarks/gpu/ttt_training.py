"""A step of TTT's training in a frozen Moshi over one window, a short one and a whole chapter."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.counted import window_seconds
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.cases import Case, Quantity
from benchmarks.gpu.models import drawn
from benchmarks.sizes import ALL, WHOLE_CHAPTER, windows_config
from benchmarks.training_step import training_step
from ttt.moshi import tiny_lm
from ttt.moshi.training import (
    MoshiTrainee,
    MoshiTrainingConfig,
    WindowBatch,
    insert_trained,
)
from ttt.moshi.training.estimate import training_bytes
from ttt.numerics import exact_float32


def window_cases(bench: Bench) -> Iterator[Case]:
    """Seconds a step and GB at the most, over one window with TTT-MLP in the size's layers."""
    size = bench.size
    windows = (size.window_frames, 3, ALL), (size.chapter_frames, 1, WHOLE_CHAPTER)
    for frames, rounds, memory in windows:
        config = windows_config(size.ttt_layers, 1, frames, memory)
        need = training_bytes(bench.outline(False), config, frames).total / 1e9
        title = f"TTT training, a window of {frames:,} frames"
        least = window_seconds(frames) if bench.full else None
        yield Case(
            (
                Quantity(f"{title}: a step", "s", least),
                Quantity(f"{title}: peak, `training_bytes`", "GB", need),
            ),
            partial(_step_over, bench, config, frames, rounds),
        )


def _step_over(
    bench: Bench, config: MoshiTrainingConfig, frames: int, rounds: int
) -> list[float | None]:
    """Seconds of a step that is not the first, and GB that lived at the most."""
    bench.forget()
    trainee = MoshiTrainee(_model(bench, config), config)
    updates = trainee.updates(1)
    # A first one, in which the optimizer makes its averages.
    training_step(trainee, updates, [_batch(bench, 16)])
    seconds: list[float] = []

    def measured() -> None:
        step = partial(training_step, trainee, updates, [_batch(bench, frames)])
        seconds.append(bench.seconds(step, rounds, warm_up=0))

    with exact_float32():
        peak = bench.on.peak(measured)
    return [seconds[0], None if peak is None else peak.most / 1e9]


def _model(bench: Bench, config: MoshiTrainingConfig):
    """Moshi with what is trained, as a job has it."""
    with torch.device("meta"):
        lm = tiny_lm(**bench.size.moshi, device="meta", dtype=torch.bfloat16)
        insert_trained(lm, config)
    return drawn(lm, bench.on.kind)


def _batch(bench: Bench, frames: int) -> WindowBatch:
    draw = torch.Generator().manual_seed(frames)
    card = bench.size.moshi.get("card", 64)
    codes = torch.randint(card, (1, 8, frames), generator=draw)
    return WindowBatch(["x"], codes, torch.ones(1, frames, dtype=torch.bool))
