"""From a configuration to what a training needs: codec, model, clips, windows, plan.

The driver plans once; a worker loads what the plan names and plans nothing. Nothing here needs Ray.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ray_jobs.config import yaml_tree
from ray_jobs.decoder.train import trackers
from ray_jobs.decoder.train.splits import split_rows, without_each_fold
from ray_jobs.decoder.train.starts import at_start, starts_sha256, untrained
from ray_jobs.decoder.train_config import TrainConfig
from ttt import checkpoint, storage
from ttt.config import fixed_part
from ttt.errors import UserError
from ttt.snac.cache.index import CodeCache, open_cache, open_cache_of
from ttt.snac.load import LoadedCodec, load_codec
from ttt.snac.model import Decoder48k
from ttt.snac.train.adversarial import Adversary
from ttt.snac.train.curriculum import (
    Epoch,
    as_planned,
    plan_epochs,
    require_even_shares,
)
from ttt.snac.train.decoder import DecoderTrainee, require_same_plan
from ttt.snac.train.step import DecoderRecipe
from ttt.snac.train.validation import ValidationSet
from ttt.snac.train.window_places import ClipPlaces
from ttt.snac.train.window_reader import WindowReader
from ttt.snac.train.windows import WindowPlan, validation_windows
from ttt.training.loop import LoopSettings
from ttt.training.state import plan_of

C = TypeVar("C", bound=TrainConfig)


@dataclass(frozen=True)
class Setup:
    """What a process holds of a training, ready to start."""

    codec: LoadedCodec
    model: Decoder48k
    """The decoder that is trained; here at step 0, on the CPU."""
    cache: CodeCache
    windows: WindowPlan
    validation: ValidationSet | None


@dataclass(frozen=True)
class TrainPlan:
    """Everything that a training will do; it travels to workers, which plan nothing again."""

    config: TrainConfig
    """With absolute paths, since workers run in folders of their own."""
    codec_sha256: str
    rows: np.ndarray
    """The training cache's rows that train, rising."""
    validation_rows: np.ndarray
    """Rows of the cache that validates: another one, or the training cache's held-out clips. No
    copies at other levels."""
    epochs: tuple[Epoch, ...]
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
        return _setup(config, codec, (cache, self.rows), (other, self.validation_rows))

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return sum(epoch.steps for epoch in self.epochs)

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
    setup = _setup(config, codec, (cache, rows), (other, validation_rows))
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


def loop_settings(plan: TrainPlan) -> LoopSettings:
    """What the loop reads, and what a resumed run must keep."""
    config = plan.config
    kept = fixed_part(config.to_dict(), TrainConfig)
    stored = plan_of(
        plan.epochs,
        **kept,
        geometry=plan.setup.cache.geometry.to_json(),
        codec_sha256=plan.codec_sha256,
        training_clips=len(plan.rows),
        validation_clips=len(plan.validation_rows),
        clips_sha256=plan.clips_sha256,
        **({"starts_sha256": plan.starts_sha256} if plan.starts_sha256 else {}),
    )
    return LoopSettings(
        run=config.run,
        plan=stored,
        checkpoint=config.checkpoint,
        validate_every_steps=config.validation.every_steps,
        ema_decay=config.optim.ema_decay,
        max_skipped_in_row=config.optim.max_skipped_in_row,
        require_same_plan=require_same_plan,
    )


def decoder_trainee(plan: TrainPlan) -> DecoderTrainee:
    """What the loop trains."""
    config = plan.config
    return DecoderTrainee(
        plan.setup.model,
        DecoderRecipe(
            seed=config.seed,
            precision=config.precision,
            optim=config.optim,
            loss=config.loss,
            adversarial=config.adversarial,
            best_by=config.validation.best_by,
        ),
        plan.epochs,
        plan.setup.validation,
        n_examples=config.validation.examples if config.tracking.tensorboard else 0,
        untouched=untrained(config, plan.setup.codec) if config.init_from else None,
    )


def require_resumable(plan: TrainPlan) -> None:
    """Raises UserError when the run's newest checkpoint was made under another plan."""
    newest = checkpoint.newest_complete(plan.config.run)
    if newest is not None:
        stored = checkpoint.read_state(newest)["plan"]
        require_same_plan(newest, stored, loop_settings(plan).plan)


def as_begun(config: C) -> C:
    """`config`, but with one window of each clip where the run that is there was begun so.

    What the run's configuration says, or meant before it had the key, is stronger than `length`,
    which the same command meant by saying nothing.
    """
    uri = storage.join(config.run, "config.yaml")
    if not storage.exists(uri):
        return config
    with storage.local_copy(uri) as path:
        stored = as_planned(yaml_tree.read(path)).get("curriculum")
    if not isinstance(stored, dict) or stored["windows_per_clip"] != 1:
        return config
    curriculum = dataclasses.replace(config.curriculum, windows_per_clip=1)
    return dataclasses.replace(config, curriculum=curriculum)


def with_absolute_paths(config: C) -> C:
    """Ray's workers run in folders of their own."""
    data = dataclasses.replace(
        config.data,
        train=storage.absolute(config.data.train),
        validation=config.data.validation and storage.absolute(config.data.validation),
    )
    codec = config.codec
    if Path(codec).expanduser().is_dir():
        codec = storage.absolute(codec)
    adversarial = config.adversarial
    if adversarial is not None and adversarial.start_from is not None:
        start = storage.absolute(adversarial.start_from)
        adversarial = dataclasses.replace(adversarial, start_from=start)
    return dataclasses.replace(
        config,
        run=storage.absolute(config.run),
        codec=codec,
        data=data,
        init_from=config.init_from and storage.absolute(config.init_from),
        adversarial=adversarial,
    )


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
    return _validation(config, cache, rows, plan.setup.model)


def _setup(
    config: TrainConfig,
    codec: LoadedCodec,
    training: tuple[CodeCache, np.ndarray],
    validating: tuple[CodeCache, np.ndarray],
) -> Setup:
    """From the caches and their rows that train and validate."""
    model = at_start(config, codec)
    (cache, rows), (_, validation_rows) = training, validating
    validation = _validation(config, *validating, model) if len(validation_rows) else None
    windows = WindowPlan(*_arrays(cache, model), seed=config.seed, rows=rows)
    return Setup(codec, model, cache, windows, validation)


def _arrays(cache: CodeCache, model: Decoder48k) -> Any:
    catalogue = cache.catalogue
    return catalogue.n_coarse, catalogue.n_samples, cache.geometry, model.reach_samples_48k


def _validation(
    config: TrainConfig, cache: CodeCache, rows: np.ndarray, model: Decoder48k
) -> ValidationSet:
    arrays = _arrays(cache, model)
    windows = validation_windows(
        ClipPlaces(*arrays),
        core_coarse=cache.geometry.tokens(config.validation.segment_seconds)[0],
        context_coarse=config.curriculum.context_coarse,
        clips_per_batch=config.validation.clips_per_batch,
        max_windows=config.validation.max_windows,
        rows=rows,
    )
    reader = WindowReader(cache, WindowPlan(*arrays, seed=0, rows=rows))
    return ValidationSet(reader, windows)
