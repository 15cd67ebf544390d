"""Which clips of a cache train, which are held out to validate, and which fold is left out."""

from __future__ import annotations

import dataclasses

import numpy as np

from ray_jobs.decoder.train_config import TrainConfig
from ttt import storage
from ttt.snac.cache.catalogue import fold_rows
from ttt.snac.cache.index import CodeCache
from ttt.snac.config import fold_number


def split_rows(config: TrainConfig, cache: CodeCache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that train, rows held out and rows of the fold left out; no clip is in two of them.

    Copies at other levels train with their clips, and are neither held out nor in a fold.
    """
    catalogue = cache.catalogue
    held_out = fold = np.array([], np.int64)
    if config.data.validation_share is not None:
        held_out = catalogue.held_out(config.data.validation_share)
    training = np.setdiff1d(catalogue.originals, held_out)[: config.data.limit_clips]
    if config.data.without_fold is not None:
        fold = fold_rows(catalogue.clip_ids, training, *fold_number(config.data.without_fold))
    return catalogue.with_copies(np.setdiff1d(training, fold)), held_out, fold


def without_each_fold(config: TrainConfig) -> list[TrainConfig]:
    """The configurations of the same training without each fold, with folders of their own."""
    folds = 0 if config.noise_floor is None else config.noise_floor.folds
    return [
        dataclasses.replace(
            config,
            run=storage.join(config.run, "folds", f"{fold}-of-{folds}"),
            data=dataclasses.replace(config.data, without_fold=f"{fold}/{folds}"),
            noise_floor=None,
            tracking=dataclasses.replace(config.tracking, wandb=None, mlflow=None),
        )
        for fold in range(1, folds + 1)
    ]
