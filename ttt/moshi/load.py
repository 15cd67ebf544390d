"""Moshi and Mimi by name: a repository of the Hugging Face hub, a local folder, or "tiny".

A folder has the published layout: config.json (names of the files below and the model's arguments;
without it the original Moshi 7B is meant), model.safetensors, and Mimi's weights with an optional
configuration of its own. The published package's loaders do the building.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)
from moshi.models import loaders
from moshi.models.compression import MimiModel
from moshi.models.lm import LMModel
from safetensors import SafetensorError

from ttt.device_errors import is_out_of_memory
from ttt.errors import UserError
from ttt.files.errors import FileIdentity
from ttt.files.text import read_text
from ttt.moshi.codes import mimi_sha256
from ttt.moshi.tiny import tiny_lm, tiny_mimi
from ttt.moshi.ttt_files import base_fingerprint
from ttt.numerics import refuse_nonfinite_weights

Precision = Literal["bfloat16", "float32"]
TINY = "tiny"
"""The name of the small random models, which need no files."""


@dataclass(frozen=True, eq=False)
class LoadedMoshi:
    """A Moshi model and where it comes from."""

    lm: LMModel
    name: str
    fingerprint: str
    """Of `base_fingerprint`: the same for the same weights in another precision."""
    weights_file: Path | None
    """None for the tiny model."""

    @functools.cached_property
    def weights_sha256(self) -> str | None:
        """Of the weights' file, which takes as long as reading all of it; None without one."""
        return None if self.weights_file is None else FileIdentity.of(self.weights_file).sha256


@dataclass(frozen=True, eq=False)
class LoadedMimi:
    """A Mimi codec and where it comes from."""

    mimi: MimiModel
    name: str
    weights_sha256: str
    """Of `mimi_sha256`, which also identifies the tiny one."""


def load_moshi(
    name: str,
    *,
    device: str = "cpu",
    dtype: Precision = "bfloat16",
    lm_kwargs: Mapping[str, Any] | None = None,
) -> LoadedMoshi:
    """Load a Moshi language model for evaluation.

    Args:
        name: "tiny", a folder, or a repository such as kyutai/moshiko-pytorch-bf16.
        lm_kwargs: arguments of the model that replace those of config.json, such as context;
            for "tiny" those of `tiny_lm`.

    Raises:
        UserError: not found, not readable, larger than the memory, or weights and configuration do
            not fit.
    """
    overrides = dict(lm_kwargs or {})
    precision = {"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype]
    if name == TINY:
        _refuse_unknown(overrides, tiny_lm, ("device", "dtype"))
        lm = tiny_lm(**overrides, device=device, dtype=precision)
        return LoadedMoshi(lm, TINY, base_fingerprint(lm), None)
    checkpoint = _checkpoint(name)
    known = set(inspect.signature(LMModel).parameters) | set(checkpoint.lm_config or {})
    if unknown := sorted(set(overrides) - known - set(loaders._lm_kwargs)):
        raise UserError(f"lm_kwargs: Moshi's model takes no {', '.join(unknown)}")
    try:
        lm = checkpoint.get_moshi(device, precision, lm_kwargs_overrides=overrides)
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError, MemoryError) as error:
        if is_out_of_memory(error):
            raise _too_large(checkpoint.moshi_weights, device, error) from error
        raise UserError(
            f"{checkpoint.moshi_weights}: cannot be loaded as Moshi ({_first_words(error)}); check "
            "config.json and lm_kwargs"
        ) from error
    return LoadedMoshi(lm, name, base_fingerprint(lm), Path(checkpoint.moshi_weights))


def outline_moshi(
    name: str, *, dtype: Precision = "bfloat16", lm_kwargs: Mapping[str, Any] | None = None
) -> LMModel:
    """The model that `load_moshi` would load, without weights: on the meta device.

    Of a repository only config.json is fetched.

    Raises:
        UserError: the configuration is not to be had or does not fit.
    """
    precision = {"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype]
    overrides = dict(lm_kwargs or {})
    try:
        with torch.device("meta"):
            if name == TINY:
                _refuse_unknown(overrides, tiny_lm, ("device", "dtype"))
                return tiny_lm(**overrides, device="meta", dtype=precision)
            folder = Path(name).expanduser()
            config = _local(folder).lm_config if folder.is_dir() else _hub_config(name)
            return loaders.get_moshi_lm(None, config, "meta", precision, None, False, overrides)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{name}: not a Moshi that can be built ({_first_words(error)})") from error


def base_arguments(name: str, lm_kwargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The model's arguments, as its config.json has them, with those that replace some.

    Those of "tiny" are the ones that are given, since it has no file.

    Raises:
        UserError: the configuration is not to be had.
    """
    own: Mapping[str, Any] = {}
    if name != TINY:
        folder = Path(name).expanduser()
        own = (_local(folder).lm_config if folder.is_dir() else _hub_config(name)) or {}
        own = own or loaders._lm_kwargs  # Without a configuration it is the original Moshi.
    return {**own, **(lm_kwargs or {})}


def outline_base(config_path: Path) -> LMModel:
    """The model that a config.json describes, on the meta device, without its LoRA.

    Raises UserError when the file is missing or describes none.
    """
    if not config_path.is_file():
        raise UserError(f"{config_path}: missing, and nothing else says which model this was")
    try:
        config = _config_of(config_path)
        with torch.device("meta"):
            return loaders.get_moshi_lm(
                None, config, "meta", torch.float32, None, False, {"lora": False}
            )
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{config_path}: not a Moshi that can be built ({_first_words(error)})"
        ) from error


def load_mimi(name: str, *, device: str = "cpu") -> LoadedMimi:
    """Load a Mimi codec with eight codebooks, always in float32.

    Args:
        name: "tiny", or what `load_moshi` takes: Mimi lies beside Moshi.

    Raises:
        UserError: not found, not readable, larger than the memory, or weights and configuration do
            not fit.
    """
    if name == TINY:
        mimi = tiny_mimi().to(device)
        return LoadedMimi(mimi, TINY, mimi_sha256(mimi))
    checkpoint = _checkpoint(name)
    try:
        mimi = checkpoint.get_mimi(device)
    except (OSError, SafetensorError, RuntimeError, TypeError, KeyError, MemoryError) as error:
        if is_out_of_memory(error):
            raise _too_large(checkpoint.mimi_weights, device, error) from error
        raise UserError(
            f"{checkpoint.mimi_weights}: cannot be loaded as Mimi ({_first_words(error)})"
        ) from error
    # Moshi's would be seen in its losses; Mimi's would make codes of zero.
    refuse_nonfinite_weights(mimi, checkpoint.mimi_weights)
    return LoadedMimi(mimi, name, mimi_sha256(mimi))


def _checkpoint(name: str) -> loaders.CheckpointInfo:
    found = _found(name)
    for path in (found.moshi_weights, found.mimi_weights, found.lora_weights):
        # The published loader unpickles whatever is named otherwise.
        if path is not None and path.suffix != ".safetensors":
            raise UserError(
                f"{path}: not a .safetensors file, and others are not read, since they could run "
                "code; convert it with safetensors.torch.save_file"
            )
    return found


def _found(name: str) -> loaders.CheckpointInfo:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _local(folder)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"{name}: no such folder, and no repository (owner/name) either")
    try:
        return loaders.CheckpointInfo.from_hf_repo(name)
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"{name}: not to be had from the hub ({_first_words(error)}); where there is a "
            f"network run 'hf download {name} --local-dir {name.split('/')[1]}' and give that "
            "folder instead"
        ) from error


def _local(folder: Path) -> loaders.CheckpointInfo:
    config_path = folder / "config.json"
    config: dict[str, Any] = {}
    if config_path.exists():
        try:
            config = json.loads(read_text(config_path))
        except ValueError as error:
            raise UserError(f"{config_path}: cannot be read as JSON ({error})") from error

    def named(key: str, default: str) -> Path:
        return folder / str(config.get(key) or default)

    weights = named("moshi_name", loaders.MOSHI_NAME)
    mimi = named("mimi_name", loaders.MIMI_NAME)
    tokenizer = named("tokenizer_name", loaders.TEXT_TOKENIZER_NAME)
    if not weights.exists() and not mimi.exists():
        raise UserError(f"{folder}: holds neither {weights.name} nor {mimi.name}")
    if not config:
        return loaders.CheckpointInfo(weights, mimi, tokenizer)
    mimi_config = config.get("mimi_config_name")
    lora = config.get("lora_name")
    return loaders.CheckpointInfo.from_hf_repo(
        str(folder),
        moshi_weights=weights,
        mimi_weights=mimi,
        tokenizer=tokenizer,
        config_path=config_path,
        mimi_config_path=folder / mimi_config if mimi_config else None,
        lora_weights=folder / lora if lora else None,
    )


def _hub_config(name: str) -> dict[str, Any] | None:
    """The model's arguments in a repository's config.json; None where it has no such file."""
    try:
        path = hf_hub_download(name, "config.json")
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        raise UserError(
            f"{name}: its config.json is not to be had from the hub ({_first_words(error)})"
        ) from error
    return _config_of(path)


def _config_of(path: str | Path) -> dict[str, Any] | None:
    """The model's arguments in a config.json, as the published package reads them."""
    return loaders.CheckpointInfo.from_hf_repo(
        "", moshi_weights=path, mimi_weights=path, tokenizer=path, config_path=path
    ).lm_config


def _refuse_unknown(overrides: Mapping[str, Any], build: Any, taken: tuple[str, ...]) -> None:
    known = sorted(set(inspect.signature(build).parameters) - set(taken))
    if unknown := sorted(set(overrides) - set(known)):
        raise UserError(
            f"lm_kwargs: the tiny model takes no {', '.join(unknown)}; it takes {', '.join(known)}"
        )


def _too_large(weights: object, device: str, error: Exception) -> UserError:
    words = _first_words(error)
    return UserError(
        f"{weights}: out of memory while it was loaded on {device}"
        + (f" ({words})" if words else "")
        + "; end what else uses that memory, or take more of it"
    )


def _first_words(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
