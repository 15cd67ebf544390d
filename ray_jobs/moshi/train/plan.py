"""From a configuration to the plan of a training in Moshi, which goes to the workers.

The driver plans once; a worker loads what the plan names and plans nothing. Nothing here needs Ray.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ray_jobs.moshi.train.config import TrainTTTConfig
from ray_jobs.moshi.train.loaded import load_trainee, starts_sha256
from ray_jobs.moshi.train.spans_file import SpansFile
from ray_jobs.moshi.train.window_stream import ChapterStream
from ray_jobs.training import trackers
from ray_jobs.training.training_job import TrainingJob
from ttt import storage
from ttt.config import fixed_part
from ttt.errors import UserError
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.moshi.insert import attention_window
from ttt.moshi.load import LoadedMoshi, load_mimi, load_moshi
from ttt.moshi.training.config import Group
from ttt.moshi.training.exported.start import read_start
from ttt.moshi.training.freeze import describe_match, freeze_base, insert_unset_trained
from ttt.moshi.training.staged_windows import stage_shape
from ttt.moshi.training.stages import WindowStage, plan_stages
from ttt.moshi.training.trainee import MoshiTrainee, WindowBatch
from ttt.moshi.training.validation.spans import (
    Span,
    choose_spans,
    hold_out,
    require_beyond_window,
    split_speakers,
)
from ttt.training.hooks import Hook
from ttt.training.local_source import LocalSource
from ttt.training.loop import BatchSource

SYNTHETIC = "synthetic"
"""In place of a Mimi: the chapters are codes that none has made."""


@dataclass(frozen=True)
class TTTPlan(TrainingJob[WindowBatch]):
    """Everything that a training will do; it travels to workers, which plan nothing again."""

    command = "train_ttt"
    item_name = "windows"

    config: TrainTTTConfig
    epochs: tuple[WindowStage, ...]
    given: TrainTTTConfig
    """As the user wrote it, for words."""
    base_fingerprint: str
    """Of the base model, before anything is put into it."""
    window: int
    """Frames that attention reaches back, with what is put into the model."""
    rows: np.ndarray
    """The cache's rows that train, rising."""
    spans: tuple[Span, ...]
    """What validations hear; empty without validation."""
    chapters_sha256: dict[str, str]
    """Of the codes that train and of those that validate."""
    start_sha256: dict[str, str]
    """Of the files that `start_from` names."""
    trained: dict[Group, int]
    """How many parameters are trained, by group."""
    match: str | None
    """How near `lora.rank: match` comes, in a sentence."""

    def kept(self) -> dict[str, Any]:
        return {
            **fixed_part(self.config.to_dict(), TrainTTTConfig),
            "base_fingerprint": self.base_fingerprint,
            "chapters_sha256": self.chapters_sha256,
            "start_sha256": self.start_sha256,
            "attention_window": self.window,
            "trained": self.trained,
        }

    def trainee(self, device: torch.device) -> MoshiTrainee:
        return load_trainee(self.config, self.base_fingerprint, self.spans, device)

    def windows_per_step(self, epoch: int) -> int:
        return self.config.stages[epoch - 1].windows_per_step

    def stream(self) -> ChapterStream:
        config = self.config
        return ChapterStream(
            cache_uri=config.data.cache,
            rows=self.rows,
            seed=config.seed,
            stages=config.stages,
            shapes=tuple(stage_shape(stage, config.memory) for stage in config.stages),
            text=config.text == "own",
        )

    def local_source(self) -> BatchSource[WindowBatch]:
        stream = self.stream()
        return LocalSource(stream.reader(), stream.epochs)

    def hooks(self) -> Sequence[Hook]:
        return [SpansFile(self.config.run, self.spans)]


def make_plan(config: TrainTTTConfig) -> TTTPlan:
    """Load the base model's identity, open the cache, plan the run.

    Raises UserError when cache and base model do not belong together, when what is to be trained
    does not fit the model, when a window is longer than every chapter, when workers cannot share
    the micro-batches, or when a tracker is not installed.
    """
    trackers.require_installed(config.tracking)
    given, config = config, with_absolute_paths(config)
    model = config.model
    # In bfloat16 a checkpoint's file is only mapped; the fingerprint is the same in any precision.
    base = load_moshi(model.weights, dtype="bfloat16", lm_kwargs=model.lm_kwargs)
    cache = ChapterCache.open(config.data.cache)
    _require_of_this_model(config, cache, base)
    rows, held_out = _split(config, cache)
    spans = choose_spans(cache.chapters, held_out, config.validation)
    match = None if config.lora is None else describe_match(base.lm, config.lora)
    if config.start_from is not None:
        read_start(base.lm, config, config.start_from)
    base.lm.to("meta")  # From here on shapes are enough; drawing the layers of the 7B takes long.
    insert_unset_trained(base.lm, config)
    window = attention_window(base.lm)
    if len(held_out):
        require_beyond_window(spans, window)
    plan = TTTPlan(
        config=config,
        given=given,
        base_fingerprint=base.fingerprint,
        window=window,
        rows=rows,
        spans=spans,
        epochs=plan_stages(config.stages),
        chapters_sha256={
            "training": _sha256(cache, rows.tolist()),
            "validation": _sha256(cache, (span.row for span in spans)),
        },
        start_sha256=starts_sha256(config),
        trained={
            group: sum(parameter.numel() for parameter in named.values())
            for group, named in freeze_base(base.lm).items()
        },
        match=match,
    )
    plan.stream().windows(cache)  # refuses windows that are longer than every chapter
    _require_even_shares(plan)
    return plan


def with_absolute_paths(config: TrainTTTConfig) -> TrainTTTConfig:
    """Ray's workers run in folders of their own."""
    model = config.model
    folders = {
        name: storage.absolute(value)
        for name in ("weights", "mimi")
        if (value := getattr(model, name)) is not None and Path(value).expanduser().is_dir()
    }
    return dataclasses.replace(
        config,
        run=storage.absolute(config.run),
        model=dataclasses.replace(model, **folders),
        data=dataclasses.replace(config.data, cache=storage.absolute(config.data.cache)),
        start_from=config.start_from and storage.absolute(config.start_from),
    )


def _split(config: TrainTTTConfig, cache: ChapterCache) -> tuple[np.ndarray, np.ndarray]:
    """Rows that train, and rows that are held out."""
    share, named = config.data.validation_share, config.data.validation_chapters
    if named is not None:
        training, held_out = hold_out(cache.chapters, named)
    elif share is None:
        training, held_out = np.arange(len(cache)), np.array([], np.int64)
    else:
        training, held_out = split_speakers(cache.chapters, share)
    return training[: config.data.limit_chapters], held_out


def _require_of_this_model(config: TrainTTTConfig, cache: ChapterCache, base: LoadedMoshi) -> None:
    """Raise UserError where another Mimi made the codes, another model chose the text, or codes lie
    outside of the model's codebooks."""
    if cache.codes.card > base.lm.card:
        raise UserError(
            f"{cache.uri}: its codes lie from 0 to {cache.codes.card - 1}, and those of "
            f"{base.name} to {base.lm.card - 1}; name the base model that the codes are for"
        )
    if config.model.mimi == SYNTHETIC:
        cache.require_synthetic()
    else:
        mimi = load_mimi(config.model.mimi or config.model.weights)
        cache.require_mimi(mimi.name, mimi.weights_sha256)
    if config.text == "own":
        cache.require_text(base.name, base.fingerprint)


def _require_even_shares(plan: TTTPlan) -> None:
    """Raise UserError unless every worker gets the same number of micro-batches of a step."""
    for index, shape in enumerate(plan.stream().shapes):
        for workers in plan.config.cluster.worker_counts:
            if shape.micro_batches_per_step % max(workers, 1):
                raise UserError(
                    f"stages[{index}]: {shape.micro_batches_per_step} micro-batches of "
                    f"{shape.windows_per_micro_batch} windows cannot be shared equally by "
                    f"{workers} workers (cluster.num_workers, and every number from "
                    "cluster.min_workers on): raise frames_per_step, or lower "
                    "memory.frames_per_micro_batch"
                )


def _sha256(cache: ChapterCache, rows: Iterable[int]) -> str:
    """Of the codes of some chapters."""
    digests = (cache.chapters[row].codes_sha256 for row in rows)
    return hashlib.sha256("".join(digests).encode()).hexdigest()
