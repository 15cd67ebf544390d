"""Codes in the files that other programs write, and file names for what they decode to.

| file | layout |
|---|---|
| .safetensors | integer tensors `codes_0`, `codes_1`, ... coarsest first, each [L_k] or [1, L_k] |
| .npy | integers interleaved [n, 7]: a row is one coarsest token with all the codes of its time |
| .pt | a list of integer tensors, coarsest first, each [L_k] or [1, L_k]; no code in it is run |

Suffixes may be written in capitals. Whatever else a file holds is its reason not to be read.

Inside the project a clip's codes are one interleaved array [n, codes_per_coarse]; for strides
(4, 2, 1) a row is 1 coarse, 2 middle and 4 fine codes, in this order.
"""

from __future__ import annotations

import hashlib
import os
import pickletools
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from ttt.files.errors import cause, reading
from ttt.files.walk import FoundFile, find_files, same_name_key, suffix_of
from ttt.snac.geometry import CodeGeometry

CODE_SUFFIXES = (".npy", ".pt", ".safetensors")


def read_codes(path: Path, geometry: CodeGeometry) -> np.ndarray:
    """The codes of one file, interleaved int16 [n, codes_per_coarse].

    Raises UserError with the file and the reason, whatever the file holds: not readable, another
    layout, scales that do not cover the same time, or codes outside the codebook.
    """
    suffix = suffix_of(path.name)
    with reading(path):
        if suffix == ".npy":
            codes = _from_rows(_read_array(path), geometry)
        elif suffix == ".pt":
            codes = _from_scales(read_tensors(path), geometry)
        elif suffix == ".safetensors":
            codes = _from_scales(_numbered(_read_named(path)), geometry)
        else:
            raise ValueError(f"not a file of codes; known are {', '.join(CODE_SUFFIXES)}")
        return _checked(codes, geometry)


def list_code_files(folder: Path) -> list[FoundFile]:
    """What `ttt.files.walk` finds of codes below `folder`; `folder` may be one file."""
    if folder.is_file():
        return [FoundFile(folder.name)]
    return find_files(folder, CODE_SUFFIXES) if folder.is_dir() else []


def wav_names(clip_ids: Sequence[str]) -> list[str]:
    """A relative .wav path for each clip id: safe on any disk, all different, sub-folders kept.

    An id cannot leave the output folder: roots, `..` and control characters are dropped or
    replaced, and what is too long is cut. Ids that would share a name, on a disk that ignores case
    or how accents are written too, each get eight hex digits of their own.
    """
    plain = [_safe_stem(clip_id) for clip_id in clip_ids]
    shared = Counter(map(same_name_key, plain))
    return [
        f"{stem}-{_digest(clip_id)}.wav" if shared[same_name_key(stem)] > 1 else f"{stem}.wav"
        for stem, clip_id in zip(plain, clip_ids, strict=True)
    ]


def _read_array(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        if file.read(len(_NUMPY_MAGIC)) != _NUMPY_MAGIC:
            raise ValueError("not a NumPy array (.npy): empty, damaged or of another program")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_named(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"damaged or no safetensors file ({cause(error)})") from error


def _from_rows(rows: np.ndarray, geometry: CodeGeometry) -> np.ndarray:
    if rows.ndim != 2 or rows.shape[1] != geometry.codes_per_coarse:
        raise ValueError(
            f"shape {rows.shape}; needed is [n, {geometry.codes_per_coarse}], "
            "one row per coarsest token"
        )
    return rows


def _from_scales(scales: object, geometry: CodeGeometry) -> np.ndarray:
    if not isinstance(scales, list | tuple) or not all(isinstance(x, torch.Tensor) for x in scales):
        raise ValueError(f"holds a {type(scales).__name__}; needed is a list of tensors")
    if len(scales) != len(geometry.strides):
        raise ValueError(f"holds {len(scales)} codebooks; the decoder has {len(geometry.strides)}")
    for scale in scales:
        if scale.is_floating_point() or scale.is_complex():
            raise ValueError(f"holds {str(scale.dtype).removeprefix('torch.')}; codes are integers")
    arrays = [scale.numpy() for scale in scales]
    arrays = [array[0] if array.ndim == 2 and len(array) == 1 else array for array in arrays]
    if any(array.ndim != 1 for array in arrays):
        shapes = [tuple(scale.shape) for scale in scales]
        raise ValueError(f"shapes {shapes}; needed is one clip, [L] or [1, L] per codebook")
    n_coarse = geometry.n_coarse_of([len(array) for array in arrays])
    return np.concatenate([array.reshape(n_coarse, -1) for array in arrays], axis=1)


def _numbered(tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    names = [f"codes_{scale}" for scale in range(len(tensors))]
    if sorted(tensors) != names:
        raise ValueError(f"holds tensors {sorted(tensors)}; needed are codes_0, codes_1, ...")
    return [tensors[name] for name in names]


def _checked(codes: np.ndarray, geometry: CodeGeometry) -> np.ndarray:
    if codes.size == 0:
        raise ValueError("holds no codes")
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"holds {codes.dtype}; codes are integers")
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= geometry.codebook_size:
        raise ValueError(
            f"codes from {low} to {high}; the codebook has 0 to {geometry.codebook_size - 1}"
        )
    return codes.astype(np.int16)


_AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".opus"}
_LONGEST_PART = 120
_LONGEST_PATH = 2048
_NUMPY_MAGIC = b"\x93NUMPY"


def _safe_stem(clip_id: str) -> str:
    stem, suffix = os.path.splitext(clip_id)
    known = suffix.lower() in _AUDIO_SUFFIXES or suffix.lower() in CODE_SUFFIXES
    parts = [_safe_part(part) for part in (stem if known else clip_id).split("/")]
    safe = "/".join(part for part in parts if part)
    # Below another folder it may come to no more than the system's 4,096 bytes.
    return safe if 0 < len(safe.encode()) <= _LONGEST_PATH else f"clip-{_digest(clip_id)}"


def _safe_part(part: str) -> str:
    safe = re.sub(r"[^\w.+=@-]+", "_", part).strip(".")
    if len(safe.encode()) > _LONGEST_PART:
        # Cutting could make two names equal; their digests keep them apart.
        safe = safe.encode()[: _LONGEST_PART // 2].decode(errors="ignore") + "-" + _digest(part)
    return safe


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


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
