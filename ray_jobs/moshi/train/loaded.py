"""What a worker loads of a training in Moshi: base, what is put into it, silence, validation."""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Sequence

import torch

from ray_jobs.moshi.train.config import TrainTTTConfig
from ttt import storage
from ttt.errors import UserError
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.moshi.codes import silence_codes
from ttt.moshi.load import load_mimi, load_moshi
from ttt.moshi.training.exported.start import start_trained
from ttt.moshi.training.freeze import insert_trained
from ttt.moshi.training.trainee import MoshiTrainee
from ttt.moshi.training.validation.chapters import ChapterValidation
from ttt.moshi.training.validation.hear import hear_span
from ttt.moshi.training.validation.spans import Span
from ttt.numerics import exact_float32


def load_trainee(
    config: TrainTTTConfig, base_fingerprint: str, spans: Sequence[Span], device: torch.device
) -> MoshiTrainee:
    """What the loop trains, at step 0.

    Raises UserError where the base model is not the one that was planned with.
    """
    exact_float32()
    model = config.model
    base = load_moshi(
        model.weights, device=str(device), dtype=model.dtype, lm_kwargs=model.lm_kwargs
    )
    if base.fingerprint != base_fingerprint:
        raise UserError(
            f"{base.name}: this node has another base model ({base.fingerprint}) than the one "
            f"that the run was planned with ({base_fingerprint}); bring the same to all nodes"
        )
    if config.start_from is None:
        insert_trained(base.lm, config)
    else:
        start_trained(base.lm, config, config.start_from)
    silence = _silence(config, spans, device)
    validation = None
    if spans:
        hear = functools.partial(
            hear_span,
            chunk=config.validation.chunk,
            text_stream=config.text,
            other_stream=config.other,
            silence=silence,
        )
        read = ChapterCache.open(config.data.cache).read
        validation = ChapterValidation(base.lm, spans, read, hear, weights=config.weights)
    return MoshiTrainee(base.lm, config, validation, silence=silence)


def _silence(
    config: TrainTTTConfig, spans: Sequence[Span], device: torch.device
) -> torch.Tensor | None:
    """Codes of silence for the longest window and span, where the other voice is silent."""
    if config.other != "silence":
        return None
    frames = max([*(stage.frames for stage in config.stages), *(span.frames for span in spans)])
    mimi = load_mimi(config.model.mimi or config.model.weights, device=str(device))
    with tempfile.TemporaryDirectory() as folder:
        return torch.from_numpy(silence_codes(mimi.mimi, frames, folder, mimi.weights_sha256))


def starts_sha256(config: TrainTTTConfig) -> dict[str, str]:
    """Of each file of `start_from`, by its name."""
    if config.start_from is None:
        return {}
    names = ("ttt.safetensors", "lora.safetensors")
    found = [name for name in names if storage.exists(storage.join(config.start_from, name))]
    return {
        name: hashlib.sha256(storage.read_bytes(storage.join(config.start_from, name))).hexdigest()
        for name in found
    }
