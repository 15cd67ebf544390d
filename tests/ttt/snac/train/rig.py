"""A small training of the decoder that a test starts, kills and goes on with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import build_nano_snac
from tests.two_ranks import Killed
from ttt.snac.cache.index import open_cache
from ttt.snac.config import DiscriminatorConfig
from ttt.snac.model import Decoder48k
from ttt.snac.train.config import AdversarialConfig, BestBy, LossConfig
from ttt.snac.train.curriculum import CurriculumConfig, Epoch, StageConfig, plan_epochs
from ttt.snac.train.decoder import DecoderTrainee
from ttt.snac.train.optim import OptimConfig
from ttt.snac.train.step import DecoderRecipe
from ttt.snac.train.validation import ValidationSet
from ttt.snac.train.window_places import ClipPlaces
from ttt.snac.train.window_reader import LocalWindowSource, WindowReader
from ttt.snac.train.windows import WindowPlan, validation_windows
from ttt.training.config import CheckpointConfig
from ttt.training.hooks import Hook, StepRecord
from ttt.training.loop import LoopSettings, train
from ttt.training.ranks import Communicator, SingleProcess
from ttt.training.state import TrainState, plan_of
from ttt.training.trainee import ValidationResult

CURRICULUM = CurriculumConfig(
    epochs=3,
    windows_per_clip=1,
    head_only_epochs=1,
    stages=(
        StageConfig(first_epoch=1, last_epoch=2, segment_seconds=0.18, clips_per_step=4),
        StageConfig(first_epoch=3, last_epoch=3, segment_seconds=0.26, clips_per_step=2),
    ),
    context_coarse=1,
    micro_batches_per_step=2,
)
N_TRAIN, N_VALID = 8, 3
TOTAL_STEPS = 8  # 2 + 2 + 4
NANO_DISCRIMINATORS = DiscriminatorConfig(
    periods=(2, 3),
    period_channels=2,
    period_max_channels=8,
    n_ffts=(64, 126),
    spectral_channels=2,
    spectral_max_channels=4,
)


@dataclass
class Rig:
    """A small run; `train` starts it or continues it, as a fresh process would."""

    cache: Path
    run: Path
    group: Communicator = field(default_factory=SingleProcess)
    optim: OptimConfig = field(default_factory=OptimConfig)
    checkpoint: CheckpointConfig = field(
        default_factory=lambda: CheckpointConfig(every_steps=1, every_minutes=None, keep_last=99)
    )
    curriculum: CurriculumConfig = CURRICULUM
    validate_every_steps: int | None = None
    seed: int = 3
    with_validation: bool = True
    adversarial: AdversarialConfig | None = None
    best_by: BestBy = "loss"

    def __post_init__(self) -> None:
        opened = open_cache(str(self.cache))
        self.model = Decoder48k.from_snac(build_nano_snac())
        rows = np.arange(len(opened))
        catalogue = opened.catalogue
        arrays: Any = (
            catalogue.n_coarse,
            catalogue.n_samples,
            opened.geometry,
            self.model.reach_samples_48k,
        )
        plan = WindowPlan(*arrays, seed=self.seed, rows=rows[:N_TRAIN])
        reader = WindowReader(opened, plan)
        self.epochs: Sequence[Epoch] = plan_epochs(self.curriculum, plan)
        self.source: Any = LocalWindowSource(
            reader,
            plan,
            [epoch.shape for epoch in self.epochs],
            self.group.rank,
            self.group.world,
        )
        windows = validation_windows(ClipPlaces(*arrays), 3, 1, 2, 5, rows=rows[N_TRAIN:])
        self.validation = ValidationSet(reader, windows) if self.with_validation else None

    def train(
        self, hooks: Sequence[Hook] = (), stop: Callable[[], bool] = lambda: False
    ) -> TrainState:
        settings = LoopSettings(
            run=str(self.run),
            plan=plan_of(self.epochs, seed=self.seed, optim=self.optim.to_dict()),
            checkpoint=self.checkpoint,
            validate_every_steps=self.validate_every_steps,
            ema_decay=self.optim.ema_decay,
            max_skipped_in_row=self.optim.max_skipped_in_row,
        )
        recipe = DecoderRecipe(
            seed=self.seed,
            precision="float32",
            optim=self.optim,
            loss=LossConfig(n_ffts=(512, 1024)),
            adversarial=self.adversarial,
            best_by=self.best_by,
        )
        self.trainee = DecoderTrainee(self.model, recipe, self.epochs, self.validation)
        return train(settings, self.trainee, self.source, self.group, hooks, stop)


class Log(Hook):
    """Remembers everything."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []
        self.validations: list[tuple[int, ValidationResult]] = []
        self.turns: list[tuple[int, int | None, str]] = []
        """Step, the best one until then, and why."""

    def on_step(self, record: StepRecord) -> None:
        self.steps.append(record)

    def on_validation(self, state: TrainState, result: ValidationResult) -> None:
        self.validations.append((state.step, result))

    def on_turn_back(self, state: TrainState, why: str) -> None:
        self.turns.append((state.step, state.best_step, why))


def content(folder: str) -> dict[str, bytes]:
    """Every byte of a checkpoint but the best value's pointer."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


class KillAfter(Hook):
    """Dies in step `step`, before its checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, record: StepRecord) -> None:
        if record.step == self.step:
            raise Killed
