"""What a process holds of a training: codec, decoder, cache, windows. Nothing here needs Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_jobs.decoder.train.starts import at_start
from ray_jobs.decoder.train_config import TrainConfig
from ttt.snac.cache.index import CodeCache
from ttt.snac.load import LoadedCodec
from ttt.snac.model import Decoder48k
from ttt.snac.train.validation import ValidationSet
from ttt.snac.train.window_places import ClipPlaces
from ttt.snac.train.window_reader import WindowReader
from ttt.snac.train.windows import WindowPlan, validation_windows


@dataclass(frozen=True)
class Setup:
    """What a process holds of a training, ready to start."""

    codec: LoadedCodec
    model: Decoder48k
    """The decoder that is trained; here at step 0, on the CPU."""
    cache: CodeCache
    windows: WindowPlan
    validation: ValidationSet | None


def set_up(
    config: TrainConfig,
    codec: LoadedCodec,
    training: tuple[CodeCache, np.ndarray],
    validating: tuple[CodeCache, np.ndarray],
) -> Setup:
    """From the caches and their rows that train and validate."""
    model = at_start(config, codec)
    (cache, rows), (_, validation_rows) = training, validating
    validation = validation_set(config, *validating, model) if len(validation_rows) else None
    windows = WindowPlan(*_arrays(cache, model), seed=config.seed, rows=rows)
    return Setup(codec, model, cache, windows, validation)


def _arrays(cache: CodeCache, model: Decoder48k) -> Any:
    catalogue = cache.catalogue
    return catalogue.n_coarse, catalogue.n_samples, cache.geometry, model.reach_samples_48k


def validation_set(
    config: TrainConfig, cache: CodeCache, rows: np.ndarray, model: Decoder48k
) -> ValidationSet:
    """The windows of a cache's rows that are measured while training."""
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
