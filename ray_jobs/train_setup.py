"""From a configuration to what a training needs: codec, model, clips, windows, plan.

The driver prepares once to refuse mistakes and to print the plan; every worker prepares again for
itself, from the same files. Nothing here needs Ray.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ray_jobs import trackers, yaml_tree
from ray_jobs.train_config import TrainConfig
from ttt import checkpoint, storage
from ttt.errors import UserError
from ttt.snac.cache import CodeCache, open_cache
from ttt.snac.clip_facts import BandwidthHours
from ttt.snac.geometry import TARGET_RATE
from ttt.snac.load import LoadedCodec, load_codec
from ttt.snac.memory import activation_bytes_per_coarse
from ttt.snac.model import Decoder48k
from ttt.snac.split import held_out_rows
from ttt.snac.train.curriculum import (
    CurriculumConfig,
    Epoch,
    as_planned,
    plan_epochs,
    require_even_shares,
)
from ttt.snac.train.decoder import DecoderRecipe, DecoderTrainee, require_same_plan
from ttt.snac.train.optim import learning_rates, rate_factor
from ttt.snac.train.validation import ValidationSet
from ttt.snac.train.window_reader import WindowReader
from ttt.snac.train.windows import WindowPlan, validation_windows
from ttt.training.loop import LoopSettings
from ttt.training.state import plan_of

C = TypeVar("C", bound=TrainConfig)


@dataclass(frozen=True)
class Setup:
    """A training, ready to start."""

    model: Decoder48k
    """At step 0, on the CPU."""
    cache: CodeCache
    rows: np.ndarray
    """The cache's rows that train, rising."""
    plan: WindowPlan
    epochs: tuple[Epoch, ...]
    validation: ValidationSet | None
    validation_clips: int
    clips_sha256: dict[str, str]
    """Of the clips that train and of those that validate: equal counts do not make them equal."""


def prepare(config: TrainConfig) -> Setup:
    """Load the codec, open the caches, plan the run.

    Raises UserError when cache and codec do not belong together, when there are too few clips,
    when workers cannot share the micro-batches, or when a tracker is not installed.
    """
    trackers.require_installed(config.tracking)
    for workers in config.cluster.worker_counts:
        require_even_shares(config.curriculum, max(workers, 1))
    codec = load_codec(config.codec)
    model = Decoder48k.from_snac(codec.model, config.init, seed=config.seed)
    cache = _open(config.data.train, codec)
    rows, held_out = _split(config, cache)
    plan = WindowPlan(
        cache.catalogue.n_coarse,
        cache.catalogue.n_samples,
        cache.geometry,
        model.reach_samples_48k,
        config.seed,
        rows,
    )
    validation, validation_clips = None, 0
    digests = {"training": cache.catalogue.sha256(rows)}
    if config.data.validation is not None:
        other = _open(config.data.validation, codec)
        every = np.arange(len(other), dtype=np.int64)
        validation, validation_clips = _validation(config, other, every, model), len(other)
        digests["validation"] = other.catalogue.sha256(every)
    elif len(held_out):
        validation = _validation(config, cache, held_out, model)
        validation_clips = len(held_out)
        digests["validation"] = cache.catalogue.sha256(held_out)
    epochs = plan_epochs(config.curriculum, plan)
    return Setup(model, cache, rows, plan, epochs, validation, validation_clips, digests)


def loop_settings(config: TrainConfig, setup: Setup) -> LoopSettings:
    """What the loop reads, and what a resumed run must keep."""
    kept = config.to_dict()
    for changeable in ("run", "cluster", "tracking", "checkpoint", "codec"):
        kept.pop(changeable)
    kept["data"].pop("train")
    kept["data"].pop("validation")
    plan = plan_of(
        setup.epochs,
        **kept,
        geometry=setup.cache.geometry.to_json(),
        codec_sha256=setup.model.codec_sha256,
        training_clips=len(setup.rows),
        validation_clips=setup.validation_clips,
        clips_sha256=setup.clips_sha256,
    )
    return LoopSettings(
        run=config.run,
        plan=plan,
        checkpoint=config.checkpoint,
        validate_every_steps=config.validation.every_steps,
        ema_decay=config.optim.ema_decay,
        max_skipped_in_row=config.optim.max_skipped_in_row,
        require_same_plan=require_same_plan,
    )


def decoder_trainee(config: TrainConfig, setup: Setup) -> DecoderTrainee:
    """What the loop trains."""
    return DecoderTrainee(
        setup.model,
        DecoderRecipe(
            seed=config.seed, precision=config.precision, optim=config.optim, loss=config.loss
        ),
        setup.epochs,
        setup.validation,
        n_examples=config.validation.examples if config.tracking.tensorboard else 0,
    )


def require_resumable(config: TrainConfig, setup: Setup) -> None:
    """Raises UserError when the run's newest checkpoint was made under another plan."""
    newest = checkpoint.newest_complete(config.run)
    if newest is not None:
        stored = checkpoint.read_state(newest)["plan"]
        require_same_plan(newest, stored, loop_settings(config, setup).plan)


def describe(config: TrainConfig) -> str:
    """The plan in words and numbers, for --dry-run. Raises what `prepare` raises."""
    given, config = config, as_begun(config)
    setup = prepare(config)
    curriculum, steps = config.curriculum, sum(epoch.steps for epoch in setup.epochs)
    workers = max(config.cluster.num_workers, 1)
    rate, catalogue = setup.cache.geometry, setup.cache.catalogue
    audio = setup.plan.audio_samples()
    heard = [setup.plan.heard_samples(epoch.shape, epoch.number) for epoch in setup.epochs]
    lines = [
        f"cache {config.data.train}: {len(setup.cache)} clips, {len(setup.rows)} train",
        BandwidthHours.of(
            *(column[setup.rows] for column in (catalogue.n_samples, catalogue.bandwidth_hz))
        ).sentence(),
        f"validation: {setup.validation_clips} clips, "
        f"{0 if setup.validation is None else setup.validation.n_windows} windows of "
        f"{config.validation.segment_seconds:g} s",
        f"{steps} steps in {curriculum.epochs} epochs, {workers} worker(s) with "
        f"{curriculum.micro_batches_per_step // workers} micro-batches of each step",
        *_heard_in_words(curriculum, heard, audio),
        *([f"{config.run}: {GOES_ON}"] * (config != given)),
        "",
        "epoch phase segment  core  clips/step  steps  left over  learning rate (head)  memory"
        "   heard",
    ]
    model_bytes = 4 * sum(tensor.numel() for tensor in setup.model.parameters())
    kept = {phase: activation_bytes_per_coarse(setup.model, phase) for phase in (1, 2)}
    for epoch, samples in zip(setup.epochs, heard, strict=True):
        shape, offset = epoch.shape, epoch.first_step - epoch.phase_first_step
        first, last = (
            learning_rates(
                config.optim,
                epoch.phase,
                step,
                epoch.phase_steps,
                factor=rate_factor(config.optim, epoch.phase_first_step + step),
            )["head"]
            for step in (offset, offset + epoch.steps - 1)
        )
        slices = shape.clips_per_micro_batch * (shape.core_coarse + 2 * shape.context_coarse)
        # Weights, gradients and AdamW's two moments.
        memory = 4 * model_bytes + kept[epoch.phase] * slices
        lines.append(
            f"{epoch.number:5d} {epoch.phase:5d} {epoch.segment_seconds:5g} s "
            f"{rate.seconds(shape.core_coarse):5.2f} {shape.clips_per_step:11d} {epoch.steps:6d} "
            f"{setup.plan.count(shape) - epoch.steps * shape.clips_per_step:10d} "
            f"  {first:.2e} to {last:.2e} {memory / 1e9:6.2f} GB {_hours(samples)} h"
        )
    lines += [
        "",
        "memory: weights, gradients, optimizer and float32 activations of one micro-batch, per",
        "worker; counted from a short forward pass, the loss comes on top",
        f"writes: {config.run}/ checkpoints, metrics.jsonl, config.yaml, provenance.json, export"
        + (", tensorboard" if config.tracking.tensorboard else ""),
    ]
    return "\n".join(lines)


GOES_ON = "was begun with one window of each clip, and goes on so"
"""What a plan says of a run that `as_begun` has changed."""


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
    return dataclasses.replace(config, run=storage.absolute(config.run), codec=codec, data=data)


def _heard_in_words(
    config: CurriculumConfig, heard: Sequence[int], audio_samples: int
) -> list[str]:
    """How much of the audio the loss counts, by epoch and in the whole run."""
    shares = [100 * samples / max(audio_samples, 1) for samples in heard]
    rule = (
        "an epoch hears a clip's samples once, but for less than a segment at its ends and the "
        "windows left over after the last step"
        if config.windows_per_clip == "length"
        else "an epoch hears one window of each clip; curriculum.windows_per_clip=length takes all"
    )
    return [
        f"heard: {_hours(sum(heard))} hours in the run, {_hours(min(heard))} to "
        f"{_hours(max(heard))} of {_hours(audio_samples)} hours of audio in an epoch "
        f"({min(shares):.1f} to {max(shares):.1f} %)",
        rule,
    ]


def _hours(samples_48k: int) -> str:
    hours = samples_48k / TARGET_RATE / 3600
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _open(uri: str, codec: LoadedCodec) -> CodeCache:
    cache = open_cache(uri)
    if cache.geometry != codec.geometry:
        raise UserError(
            f"{uri}: its codes have the geometry {cache.geometry.to_json()} and codec "
            f"{codec.name} has {codec.geometry.to_json()}; name the codec that wrote the cache"
        )
    if cache.codec.weights_sha256 != codec.weights_sha256:
        raise UserError(
            f"{uri}: its codes were written by {cache.codec.name} with weights "
            f"{cache.codec.weights_sha256[:12]} and codec {codec.name} has "
            f"{codec.weights_sha256[:12]}; name the codec that wrote the cache"
        )
    return cache


def _split(config: TrainConfig, cache: CodeCache) -> tuple[np.ndarray, np.ndarray]:
    """Rows that train and rows held out; no row is in both."""
    rows = np.arange(len(cache), dtype=np.int64)
    held_out = np.array([], np.int64)
    if config.data.validation_share is not None:
        held_out = held_out_rows(cache.catalogue.clip_ids[:], config.data.validation_share)
    return np.setdiff1d(rows, held_out)[: config.data.limit_clips], held_out


def _validation(
    config: TrainConfig, cache: CodeCache, rows: np.ndarray, model: Decoder48k
) -> ValidationSet:
    catalogue, geometry = cache.catalogue, cache.geometry
    arrays: Any = (catalogue.n_coarse, catalogue.n_samples, geometry, model.reach_samples_48k)
    windows = validation_windows(
        *arrays,
        core_coarse=geometry.tokens(config.validation.segment_seconds)[0],
        context_coarse=config.curriculum.context_coarse,
        clips_per_batch=config.validation.clips_per_batch,
        max_windows=config.validation.max_windows,
        rows=rows,
    )
    reader = WindowReader(cache, WindowPlan(*arrays, seed=0, rows=rows))
    return ValidationSet(reader, windows)
