"""Loading a SNAC codec: by its name on the Hugging Face hub, from a folder, or the tiny one.

A folder has the hub's layout: config.json (SNAC's keyword arguments) beside pytorch_model.bin or
model.safetensors. The word "tiny" is the small codec that ships with this package.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors
import safetensors.torch
import torch
from snac import SNAC
from torch import nn

from ttt.errors import UserError
from ttt.files.text import read_text
from ttt.numerics import refuse_nonfinite_weights
from ttt.snac.geometry import CodeGeometry

TINY = "tiny"
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class LoadedCodec:
    """A codec ready to encode and decode, and what tells it from every other."""

    model: SNAC
    """In eval mode, on the device asked for, without gradients."""
    name: str
    """The name on the hub, "tiny", or the folder's own name."""
    weights_sha256: str
    """See `weights_sha256`."""
    geometry: CodeGeometry
    """Derived from the model."""


def load_codec(
    name_or_folder: str | Path,
    device: str | torch.device = "cpu",
    *,
    known_sha256: str | None = None,
) -> LoadedCodec:
    """Load the codec `name_or_folder`: a hub name, a folder in the hub's layout, or "tiny".

    `known_sha256` is its `weights_sha256`, where it has been computed before. Raises UserError when
    the folder or a file is missing, a file is damaged, the weights do not fit the configuration or
    are not all numbers, or the hub cannot be reached.
    """
    name = str(name_or_folder)
    folder = Path(name).expanduser()
    if name == TINY:
        with resources.as_file(resources.files("ttt") / "assets" / "tiny_codec") as tiny:
            model = _read_folder(tiny)
    elif folder.is_dir():
        name, model = folder.resolve().name, _read_folder(folder)
    elif _HUB_NAME.fullmatch(name):
        model = _read_hub(name)
    else:
        raise UserError(
            f"{name}: no such codec folder; give a folder with config.json and "
            f'pytorch_model.bin, a name on the hub such as {_EXAMPLE}, or "{TINY}"'
        )
    refuse_nonfinite_weights(model, name)
    model = model.eval().requires_grad_(False)
    digest = known_sha256 or weights_sha256(model)
    return LoadedCodec(model.to(device), name, digest, CodeGeometry.of(model))


_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_EXAMPLE = "hubertsiuzdak/snac_24khz"


def weights_sha256(model: nn.Module) -> str:
    """64 hex digits over every tensor's name, type, shape and bytes, in order of name.

    Taken from the loaded model, so the file format and older key names make no difference.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_folder(folder: Path) -> SNAC:
    config = folder / "config.json"
    weights = next((folder / n for n in _WEIGHT_FILES if (folder / n).exists()), None)
    if not config.exists():
        raise UserError(f"{config}: not found; a codec folder needs it beside its weights")
    if weights is None:
        raise UserError(f"{folder}: no weights; put {' or '.join(_WEIGHT_FILES)} there")
    return _build(config, weights)


def _read_hub(name: str) -> SNAC:
    try:
        config = huggingface_hub.hf_hub_download(name, "config.json")
        weights = huggingface_hub.hf_hub_download(name, "pytorch_model.bin")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(". ")
        raise UserError(
            f"{name}: neither a folder here nor fetched from the Hugging Face hub ({reason}); "
            f"where there is a network run 'hf download {name} --local-dir {name.split('/')[1]}' "
            "and give that folder instead"
        ) from error
    return _build(Path(config), Path(weights))


def _build(config: Path, weights: Path) -> SNAC:
    try:
        model = SNAC(**json.loads(read_text(config)))
    except (TypeError, ValueError) as error:
        raise UserError(f"{config}: not a SNAC configuration ({error})") from error
    try:
        # Older weight_g / weight_v keys are translated by weight norm's own load hook.
        model.load_state_dict(_read_weights(weights))
    except RuntimeError as error:
        raise UserError(
            f"{weights}: does not fit {config.name} beside it "
            f"({' '.join(str(error).split())[:300]})"
        ) from error
    return model


def _read_weights(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (
        safetensors.SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
    ) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(f"{path}: cannot be read as weights ({reason})") from error
    if not isinstance(weights, dict):
        raise UserError(f"{path}: holds a {type(weights).__name__}, not a dict of weights by name")
    return weights
