"""A small run of training in Moshi in a plain process. As a script: one rank of a run over two."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from moshi.models.lm import LMModel

from tests.ttt.conftest import _small_lm
from tests.two_ranks import Killed, be_a_rank, run_two_ranks
from ttt.moshi.training import (
    MemoryConfig,
    MoshiTrainee,
    MoshiTrainingConfig,
    WindowBatch,
    freeze_base,
    insert_trained,
)
from ttt.moshi.training.config import (
    LoRAConfig,
    MoshiOptimConfig,
    PeakRatesConfig,
    TTTLayersConfig,
    WindowStageConfig,
)
from ttt.training.config import CheckpointConfig
from ttt.training.hooks import Hook, StepRecord
from ttt.training.loop import LoopSettings, train
from ttt.training.ranks import Communicator, ProcessGroup, SingleProcess
from ttt.training.state import TrainState, plan_of

MICRO_BATCHES = 2
TOTAL_STEPS = 5
LAST = f"checkpoints/step-{TOTAL_STEPS:08d}"
CONFIG = MoshiTrainingConfig(
    ttt=TTTLayersConfig(layers=(1,), mini_batch_size=8, kind="linear", gate=0.5),
    lora=LoRAConfig(rank=2),
    stages=(
        WindowStageConfig(frames=10, steps=3, frames_per_step=40),
        WindowStageConfig(frames=20, steps=2, frames_per_step=40),
    ),
    optim=MoshiOptimConfig(
        peak_rates=PeakRatesConfig(ttt=3e-3, gate=1e-2, lora=1e-3), ema_decay=0.5
    ),
    text="own",
    other="silence",
    memory=MemoryConfig(checkpoint_layers=True, checkpoint_mini_batches="auto", head_block=6),
)

LACT = dataclasses.replace(
    CONFIG,
    ttt=TTTLayersConfig(
        layers=(1,), flavour="lact", mini_batch_size=12, base_lr=0.1, rope_theta=None,
        momentum=True, gate=0.5,
    ),
    lora=None,
)  # fmt: skip
"""The first stage's windows end within a chunk."""


def small_base(**overrides):
    return _small_lm(None, **{"num_layers": 2, "dim": 32, "depformer_dim": 16, **overrides})


def in_training(
    config: MoshiTrainingConfig = CONFIG, dtype: torch.dtype = torch.float32, **base
) -> LMModel:
    """A small model after some steps: what was inserted has moved."""
    lm = small_base(dtype=dtype, **base)
    insert_trained(lm, config)
    generator = torch.Generator().manual_seed(5)
    for named in freeze_base(lm).values():
        for parameter in named.values():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return lm


def trainee(config: MoshiTrainingConfig = CONFIG, **overrides) -> MoshiTrainee:
    lm = small_base(**overrides)
    insert_trained(lm, config)
    generator = torch.Generator().manual_seed(8)
    silence = torch.randint(64, (8, 20), generator=generator)
    return MoshiTrainee(lm, config, silence=silence)


class Windows:
    """Windows that follow from their place; the second micro-batch of a stage's last step has no
    frame in the loss, and the first one's rows end at different places."""

    def __init__(self, group: Communicator, log: list[str] | None = None) -> None:
        self.group = group
        self.log = [] if log is None else log

    def step_batches(self, epoch: int, first_step: int) -> Iterator[list[WindowBatch]]:
        stage = CONFIG.stages[epoch - 1]
        for step in range(first_step, stage.steps):
            micros = range(self.group.rank, MICRO_BATCHES, self.group.world)
            batches = [window_batch(epoch, step, micro) for micro in micros]
            self.log += [name for batch in batches for name in batch.ids]
            yield batches


def window_batch(epoch: int, step: int, micro: int) -> WindowBatch:
    stage = CONFIG.stages[epoch - 1]
    generator = torch.Generator().manual_seed(1000 * epoch + 10 * step + micro)
    rows = stage.windows_per_step // MICRO_BATCHES
    codes = torch.randint(64, (rows, 8, stage.frames), generator=generator, dtype=torch.int16)
    text = torch.randint(40, (rows, stage.frames), generator=generator, dtype=torch.int32)
    counted = torch.ones(rows, stage.frames, dtype=torch.bool)
    if step == stage.steps - 1:
        counted[:, 0 if micro else stage.frames - 4 :] = False
        counted[0, : 0 if micro else 3] = False
    ids = [f"chapter-{epoch}-{step}-{micro}/{row}" for row in range(rows)]
    return WindowBatch(ids, codes, counted, text)


class Log(Hook):
    """Remembers the steps, and kills the process in step `kill_in`, before its checkpoint."""

    def __init__(self, kill_in: int = 0) -> None:
        self.kill_in = kill_in
        self.steps: list[StepRecord] = []

    def on_step(self, record: StepRecord) -> None:
        self.steps.append(record)
        if record.step == self.kill_in:
            raise Killed


def run(
    folder: Path,
    hooks: Sequence[Hook] = (),
    *,
    group: Communicator | None = None,
    log: list[str] | None = None,
    stop_after: int | None = None,
    config: MoshiTrainingConfig = CONFIG,
) -> TrainState:
    """Start the run or go on with it, as a fresh process would."""
    group, trained = group or SingleProcess(), trainee(config)
    settings = LoopSettings(
        run=str(folder),
        plan=plan_of(trained.epochs, **config.to_dict()),
        checkpoint=CheckpointConfig(every_steps=2, every_minutes=None, keep_last=99),
        ema_decay=config.optim.ema_decay,
    )
    asked = iter(range(TOTAL_STEPS + 1))
    return train(
        settings,
        trained,
        Windows(group, log),
        group,
        hooks,
        lambda: stop_after is not None and next(asked) == stop_after,
    )


def run_over_two_ranks(folder: Path, kill_in: int = 0) -> None:
    """The run over two processes; rank r leaves its losses and windows in folder/rank-r.json."""
    run_two_ranks(__file__, folder, kill_in, killed=bool(kill_in))


def _train(rank: int, folder: str, kill_in: str) -> None:
    log, heard = Log(int(kill_in)), list[str]()
    run(Path(folder), [log], group=ProcessGroup(), log=heard)
    told = {"terms": [step.terms for step in log.steps], "heard": heard}
    Path(folder, f"rank-{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    be_a_rank(_train)
