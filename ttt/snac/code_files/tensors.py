"""Arrays and tensors in files of NumPy, torch and safetensors, of which no code is run."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from ttt.files.errors import cause


def read_array(path: Path) -> np.ndarray:
    """The array of a .npy file. Raises ValueError for anything else, objects included."""
    with open(path, "rb") as file:
        if file.read(len(_NUMPY_MAGIC)) != _NUMPY_MAGIC:
            raise ValueError("not a NumPy array (.npy): empty, damaged or of another program")
        file.seek(0)
        try:
            return np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            if str(error).startswith("Object arrays"):
                raise ValueError(
                    "holds Python objects and is not read, since they could run code; save an "
                    "array of whole numbers"
                ) from error
            raise


def read_named(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a .safetensors file by name, and its metadata. Raises ValueError."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return safetensors.torch.load_file(path), metadata
    except safetensors.SafetensorError as error:
        raise ValueError(f"damaged or no safetensors file ({cause(error)})") from error


def read_tensors(path: Path) -> Any:
    """The tensors, lists and dicts of a file of torch.save, on the CPU.

    Raises ValueError with the reason: a TorchScript program, a pickle that holds more than tensors,
    or bytes that are neither. Torch's own words advise to read on without its safeguard.
    """
    if path.stat().st_size == 0:
        raise ValueError("empty")
    names = _names_in_archive(path)
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise ValueError(
            "a TorchScript program, which is not read, since it could run code; save a plain list "
            "of tensors"
        )
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        if _is_pickle(path, names):
            raise ValueError(
                "holds more than tensors and is not read, since it could run code; save a plain "
                "list of tensors"
            ) from error
        raise ValueError(f"damaged, or no file of torch.save ({_own_words(error)})") from error


def _names_in_archive(path: Path) -> list[str]:
    """Names in the zip archive that torch.save writes; none where it is no such archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except zipfile.BadZipFile:
        return []


def _is_pickle(path: Path, names: list[str]) -> bool:
    """Whether there is a whole pickle to be read, found without running it."""
    try:
        if names:
            with zipfile.ZipFile(path) as archive:
                content = archive.read(next(n for n in names if n.endswith("data.pkl")))
        else:
            content = path.read_bytes()
        return any(code.name in _CALLS for code, _, _ in pickletools.genops(content))
    except Exception:
        return False


_CALLS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "REDUCE", "BUILD", "OBJ", "NEWOBJ"})
"""What names a function or type, or calls it."""


def _own_words(error: Exception) -> str:
    """The cause without torch's advice on how to read the file nevertheless."""
    if "weights_only" in str(error) or "Weights only" in str(error):
        return "its content cannot be understood"
    return cause(error)


_NUMPY_MAGIC = b"\x93NUMPY"
