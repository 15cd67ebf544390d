"""The models of an evaluation as a worker holds them: one Moshi at a time, and the codec."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import torch
from moshi.models.lm import LMModel

from ray_jobs.moshi.config import ChapterModelsConfig
from ray_jobs.moshi.wanted import Weights, wanted_weights, weights_name
from ttt.errors import UserError
from ttt.eval.run import ModelIdentity
from ttt.layers import InnerControls
from ttt.moshi.codes import silence_codes
from ttt.moshi.insert import attention_window, take_out_ttt, ttt_layers
from ttt.moshi.load import LoadedMimi, LoadedMoshi, load_mimi, load_moshi, outline_moshi
from ttt.moshi.lora import StoredLora, check_lora, fuse_lora, has_lora, read_lora
from ttt.moshi.ttt_files import describe_ttt, load_ttt, outline_ttt


class LoadedModels:
    """Loads what is asked for; another Moshi replaces the one before.

    Where TTT layers belong to the very base model, they are put into it and taken out again, unless
    a LoRA lies beside them: what that has done to the base's weights cannot be taken back.
    """

    def __init__(self, config: ChapterModelsConfig, device: str) -> None:
        self._config, self._device = config, device
        self._moshi: LoadedMoshi | None = None
        self._lora: dict[str, Any] | None = None
        self._is_base_alone = True
        self._weights: Weights | None = None
        self._mimi: LoadedMimi | None = None

    def moshi(self, weights: Weights, inner: InnerControls | None = None) -> LoadedMoshi:
        """The base model, or the one with TTT layers, which learn as `inner` says until the next
        call. Raises UserError when it does not load.
        """
        moshi = self._loaded(weights)
        for layer in ttt_layers(moshi.lm).values():
            layer.layer.controls = inner or InnerControls()
        return moshi

    def _loaded(self, weights: Weights) -> LoadedMoshi:
        config, name = self._config, weights_name(self._config, weights)
        if self._moshi is not None and self._weights == weights:
            return self._moshi
        self._weights = None  # Until all of it is there.
        if self._moshi is None or self._moshi.name != name or not self._is_base_alone:
            self._moshi = None
            gc.collect()  # Two models of 7 billion do not fit side by side.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            made = load_moshi(
                name, device=self._device, dtype=config.dtype, lm_kwargs=config.lm_kwargs
            )
            if (lora := _lora(config)) is not None:
                lora.require_base(made.fingerprint)
                fuse_lora(made.lm, lora)
            self._lora = None if lora is None else lora.describe()
            self._moshi, self._is_base_alone = made, True
        take_out_ttt(self._moshi.lm)
        if weights == "ttt" and config.ttt is not None:
            self._is_base_alone = not _brings_lora(config)
            load_ttt(self._moshi.lm, config.ttt, base=self._moshi.fingerprint)
        self._weights = weights
        return self._moshi

    def mimi(self) -> LoadedMimi:
        """The codec. Raises UserError when it does not load."""
        if self._mimi is None:
            name = self._config.mimi or self._config.weights
            self._mimi = load_mimi(name, device=self._device)
        return self._mimi

    def silence(self, frames: int, cache: str) -> torch.Tensor:
        """Codes of silence [8, frames]."""
        mimi = self.mimi()
        return torch.from_numpy(silence_codes(mimi.mimi, frames, cache, mimi.weights_sha256))

    def identity(
        self, name: str, weights: Weights, controls: dict[str, Any] | None = None
    ) -> ModelIdentity:
        """What a model of the run is; loads it."""
        moshi, layers = self.moshi(weights), None
        if weights == "ttt" and self._config.ttt is not None:
            layers = {"folder": self._config.ttt, **describe_ttt(self._config.ttt)}
        return ModelIdentity(
            model=name,
            source=moshi.name,
            fingerprint=moshi.fingerprint,
            weights_sha256=moshi.weights_sha256,
            context=attention_window(moshi.lm),
            ttt=layers,
            lora=self._lora,
            controls=controls or {},
        )


def outlines(
    config: ChapterModelsConfig, inner_steps: int | None = None
) -> Iterator[tuple[Weights, LMModel | UserError]]:
    """Each model that is asked for, on the meta device, or why it cannot be outlined yet.

    Where a control asks for several inner steps, the TTT layers are those that take them.

    Raises UserError for a LoRA or TTT layers that do not fit.
    """
    lora = _lora(config)
    if lora is not None and _brings_lora(config):
        raise UserError(
            f"model.ttt={config.ttt} brings the LoRA that was trained with its layers: leave "
            "model.lora out, or name a folder of layers alone"
        )
    for weights in wanted_weights(config):
        try:
            name = weights_name(config, weights)
            lm = outline_moshi(name, dtype=config.dtype, lm_kwargs=config.lm_kwargs)
        except UserError as error:
            yield weights, error
            continue
        if lora is not None:
            check_lora(lm, lora)
        if weights == "ttt" and config.ttt is not None:
            outline_ttt(lm, config.ttt)
            for layer in ttt_layers(lm).values():
                layer.layer.controls = InnerControls(inner_steps=inner_steps or 1)
        yield weights, lm


def _lora(config: ChapterModelsConfig) -> StoredLora | None:
    return None if config.lora is None else read_lora(config.lora)


def _brings_lora(config: ChapterModelsConfig) -> bool:
    """Whether the folder of TTT layers holds a LoRA, too."""
    return config.ttt is not None and has_lora(config.ttt)
