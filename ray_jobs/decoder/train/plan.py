"""From a configuration to the plan of a training, which goes to the workers.

The driver plans once; a worker loads what the plan names and plans nothing. Nothing here needs Ray.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from ray_jobs.decoder.train.as_begun import as_begun, with_absolute_paths
from ray_jobs.decoder.train.examples import show_example
from ray_jobs.decoder.train.setup import Setup, set_up, validation_set
from ray_jobs.decoder.train.splits import split_rows, without_each_fold
from ray_jobs.decoder.train.starts import starts_sha256, untrained
from ray_jobs.decoder.train.window_stream import WindowStream
from ray_jobs.decoder.train_config import TrainConfig
from ray_jobs.training import trackers
from ray_jobs.training.training_job import TrainingJob
from ttt.config import fixed_part
from ttt.errors import UserError
from ttt.snac.cache.index import open_cache, open_cache_of
from ttt.snac.load import LoadedCodec, load_codec
from ttt.snac.train.adversarial import LOSS, Adversary, CollapseWarning
from ttt.snac.train.curriculum import Epoch, plan_epochs, require_even_shares
from ttt.snac.train.decoder import DecoderTrainee, require_same_plan
from ttt.snac.train.guards import held
from ttt.snac.train.step import DecoderRecipe
from ttt.snac.train.validation import ValidationSet
from ttt.snac.train.window_reader import LocalWindowSource, MicroBatch, WindowReader
from ttt.snac.train.windows import WindowShape
from ttt.training.hooks import Hook
from ttt.training.loop import BatchSource
from ttt.training.state import TrainState

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainPlan(TrainingJob[MicroBatch]):
    """Everything that a training will do; it travels to workers, which plan nothing again."""

    command = "train_decoder"
    item_name = "clips"
    shown_terms = MappingProxyType({"loss": "total", "discriminator": LOSS})

    config: TrainConfig
    epochs: tuple[Epoch, ...]
    codec_sha256: str
    rows: np.ndarray
    """The training cache's rows that train, rising."""
    validation_rows: np.ndarray
    """Rows of the cache that validates: another one, or the training cache's held-out clips. No
    copies at other levels."""
    clips_sha256: dict[str, str]
    """Of the clips that train and of those that validate: equal counts do not make them equal."""
    given: TrainConfig
    """As the user wrote it, for words."""
    starts_sha256: dict[str, str]
    """Of the weights that others trained and this run begins with, by key."""
    goes_on_as_begun: bool
    """Whether the run was begun with one window of each clip and keeps to it, against `length`."""
    kept_out_rows: np.ndarray
    """The training cache's rows of the fold that this training is without; none in a whole one."""
    folds: tuple[TrainPlan, ...] = ()
    """The same without each fold, where `noise_floor` asks for them; a worker has none."""

    @functools.cached_property
    def setup(self) -> Setup:
        """What this process holds; loaded at the first use of it."""
        config = self.config
        codec = load_codec(config.codec, known_sha256=self.codec_sha256)
        cache = open_cache(config.data.train)
        other = cache if config.data.validation is None else open_cache(config.data.validation)
        return set_up(config, codec, (cache, self.rows), (other, self.validation_rows))

    def kept(self) -> dict[str, Any]:
        return {
            **fixed_part(self.config.to_dict(), TrainConfig),
            "geometry": self.setup.cache.geometry.to_json(),
            "codec_sha256": self.codec_sha256,
            "training_clips": len(self.rows),
            "validation_clips": len(self.validation_rows),
            "clips_sha256": self.clips_sha256,
            **({"starts_sha256": self.starts_sha256} if self.starts_sha256 else {}),
        }

    def require_same_plan(
        self, folder: str, stored: dict[str, Any], current: dict[str, Any]
    ) -> None:
        require_same_plan(folder, stored, current)

    def trainee(self, device: torch.device) -> DecoderTrainee:
        config = self.config
        return DecoderTrainee(
            self.setup.model.to(device),
            DecoderRecipe(
                seed=config.seed,
                precision=config.precision,
                optim=config.optim,
                loss=config.loss,
                adversarial=config.adversarial,
                best_by=config.validation.best_by,
            ),
            self.epochs,
            self.setup.validation,
            n_examples=config.validation.examples if config.tracking.tensorboard else 0,
            untouched=untrained(config, self.setup.codec) if config.init_from else None,
        )

    def windows_per_step(self, epoch: int) -> int:
        return self.epochs[epoch - 1].shape.clips_per_step

    def stream(self) -> WindowStream:
        reach = self.setup.model.reach_samples_48k
        return WindowStream.of(self.setup.cache, reach, self.config.seed, self._shapes, self.rows)

    def local_source(self) -> BatchSource[MicroBatch]:
        windows = self.setup.windows
        return LocalWindowSource(WindowReader(self.setup.cache, windows), windows, self._shapes)

    def hooks(self) -> Sequence[Hook]:
        adversarial = self.config.adversarial
        return [] if adversarial is None else [CollapseWarning(adversarial, logger.warning)]

    def show_example(self, board: Any, index: int, example: Any, step: int) -> None:
        show_example(board, index, example, step)

    def notes(self, state: TrainState, *, finished: bool) -> list[str]:
        guarded, best = self.config.validation.best_by == "guarded", state.best_value
        if not (finished and guarded and best is not None and not held(best)):
            return []
        return [
            "at no validation did all guards hold, so the best decoder is that of the lowest "
            "loss; metrics.jsonl has every validation's rows"
        ]

    @property
    def _shapes(self) -> list[WindowShape]:
        return [epoch.shape for epoch in self.epochs]

    def __getstate__(self) -> dict[str, Any]:
        """All but what a process holds, which is loaded where the plan arrives."""
        kept = {key: value for key, value in vars(self).items() if key != "setup"}
        return {**kept, "folds": ()}


def make_plan(config: TrainConfig) -> TrainPlan:
    """Plan the run in the folder `config.run`, which goes on as it was begun.

    Raises what `plan_training` raises.
    """
    as_it_was = as_begun(config)
    return plan_training(
        with_absolute_paths(as_it_was), given=as_it_was, goes_on_as_begun=as_it_was != config
    )


def plan_training(
    config: TrainConfig,
    codec: LoadedCodec | None = None,
    *,
    given: TrainConfig | None = None,
    goes_on_as_begun: bool = False,
) -> TrainPlan:
    """Load the codec unless it is handed over, open the caches, plan the run.

    `given` and `goes_on_as_begun` are the plan's, for its words.

    Raises UserError when cache and codec do not belong together, when there are too few clips,
    when workers cannot share the micro-batches, or when a tracker is not installed.
    """
    trackers.require_installed(config.tracking)
    for workers in config.cluster.worker_counts:
        require_even_shares(config.curriculum, max(workers, 1))
    codec = codec or load_codec(config.codec)
    cache = other = open_cache_of(config.data.train, codec)
    rows, validation_rows, kept_out = split_rows(config, cache)
    digests = {"training": cache.catalogue.sha256(rows)}
    if config.data.validation is not None:
        other = open_cache_of(config.data.validation, codec)
        validation_rows = other.catalogue.originals
    if len(validation_rows):
        digests["validation"] = other.catalogue.sha256(validation_rows)
    setup = set_up(config, codec, (cache, rows), (other, validation_rows))
    epochs = plan_epochs(config.curriculum, setup.windows)
    if config.adversarial is not None:
        Adversary(config.adversarial, epochs, torch.device("cpu"))  # refuses what does not fit
    plan = TrainPlan(
        config=config,
        codec_sha256=codec.weights_sha256,
        rows=rows,
        validation_rows=validation_rows,
        epochs=epochs,
        clips_sha256=digests,
        given=given or config,
        starts_sha256=starts_sha256(config),
        goes_on_as_begun=goes_on_as_begun,
        kept_out_rows=kept_out,
        folds=tuple(_plan_fold(each, codec) for each in without_each_fold(config)),
    )
    vars(plan)["setup"] = setup  # This process has it already.
    return plan


def _plan_fold(config: TrainConfig, codec: LoadedCodec) -> TrainPlan:
    try:
        fold = plan_training(config, codec)
        if not len(fold.kept_out_rows):
            raise UserError(
                f"which has none of the {len(fold.rows)} training clips, nothing can be fitted: "
                "lower noise_floor.folds"
            )
        kept_out_windows(fold, 1)  # refuses clips that are too short to be heard
        return fold
    except UserError as error:
        raise UserError(
            f"noise_floor.folds: without fold {config.data.without_fold}, {error}"
        ) from error


def kept_out_windows(plan: TrainPlan, most: int) -> ValidationSet:
    """At most so many windows of clips that this training does not hear: those of the fold that it
    is without, else those that validate."""
    config, cache, rows = plan.config, plan.setup.cache, plan.kept_out_rows
    if config.data.without_fold is None:
        rows = plan.validation_rows
        if config.data.validation is not None:
            cache = open_cache(config.data.validation)
    validation = dataclasses.replace(config.validation, max_windows=most)
    config = dataclasses.replace(config, validation=validation)
    return validation_set(config, cache, rows, plan.setup.model)
