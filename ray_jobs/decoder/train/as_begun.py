"""The configuration that a run goes by: with absolute paths, and as it was begun."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeVar

from ray_jobs.config import yaml_tree
from ray_jobs.decoder.train_config import TrainConfig
from ttt import storage
from ttt.snac.train.curriculum import as_planned

C = TypeVar("C", bound=TrainConfig)


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
