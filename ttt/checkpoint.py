"""Checkpoints that are complete or absent, on a disk or an object store.

    RUN/checkpoints/step-00001234/model.safetensors   weights (and ema.safetensors when it is on)
                                  optimizer.pt        read with weights_only=True
                                  state.json          position, best value, plan
                                  COMPLETE            written last: sizes and crc32 of the rest
    RUN/checkpoints/best.json                         the step with the lowest validation loss

On a disk a checkpoint is written into a hidden folder, synced and renamed; on an object store the
COMPLETE file is uploaded last. A folder without it does not count and is removed at the next
start. The newest complete checkpoint is found here, never by a scheduler, so a run continues
whoever restarts it.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import uuid
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ttt import records, storage
from ttt.config import differences
from ttt.errors import UserError


@dataclass(frozen=True)
class Snapshot:
    """All that a checkpoint holds."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    """File stem -> named tensors: "model", and "ema" when it is on."""
    optimizer: dict[str, Any]
    """Tensors and plain values only, so that torch.load(weights_only=True) reads them."""
    state: dict[str, Any]
    """What JSON can hold."""
    epoch_end: bool = field(default=False)


def save(run: str, snapshot: Snapshot) -> str:
    """Write `snapshot` whole or not at all and return its folder.

    A complete checkpoint of the same step stays as it is: the same step holds the same bytes.
    Raises UserError when the disk is full; the older checkpoints are untouched.
    """
    folder = _folder(run, snapshot.step)
    if _marker(folder) is not None:
        return folder
    files = _encode(snapshot)
    marker = {
        "step": snapshot.step,
        "epoch_end": snapshot.epoch_end,
        "files": {
            name: {"bytes": len(content), "crc32": zlib.crc32(content)}
            for name, content in files.items()
        },
    }
    files[_MARKER] = json.dumps(marker, indent=2).encode()  # dicts keep order: written last
    try:
        if storage.is_local(folder):
            _write_folder(storage.local_path(folder), files)
        else:
            for name, content in files.items():
                storage.write_bytes(storage.join(folder, name), content)
    except OSError as error:
        raise UserError(
            f"{folder}: the checkpoint could not be written ({error.strerror or error}); the "
            f"older ones are intact: free space, then continue with --resume"
        ) from error
    return folder


def newest_complete(run: str) -> str | None:
    """The folder of the newest complete checkpoint of `run`; None when there is none."""
    steps = complete_steps(run)
    return _folder(run, steps[-1]) if steps else None


def complete_steps(run: str) -> list[int]:
    """The steps of all complete checkpoints, rising."""
    steps = [int(match[1]) for name in _names(run) if (match := _STEP_NAME.fullmatch(name))]
    return [step for step in sorted(steps) if _marker(_folder(run, step)) is not None]


def load(folder: str) -> Snapshot:
    """Read a complete checkpoint, on the CPU.

    Raises UserError when it is not complete, a file's crc32 differs from the marker's, or the
    optimizer's file is a pickle that could run code.
    """
    marker = _complete_marker(folder)
    files = {name: _read(folder, marker, name) for name in marker["files"]}
    return Snapshot(
        step=marker["step"],
        tensors={
            name.removesuffix(_TENSORS): safetensors.torch.load(content)
            for name, content in files.items()
            if name.endswith(_TENSORS)
        },
        optimizer=_optimizer(folder, files["optimizer.pt"]),
        state=json.loads(files[_STATE]),
        epoch_end=marker["epoch_end"],
    )


def read_state(folder: str) -> dict[str, Any]:
    """The state alone of a complete checkpoint. Raises UserError when it is damaged."""
    return json.loads(_read(folder, _complete_marker(folder), _STATE))


def mark_best(run: str, step: int, value: float) -> None:
    """Point best.json at the checkpoint of `step`, which is complete."""
    records.write_json(_best_pointer(run), {"step": step, "value": value})


def best(run: str) -> str | None:
    """The folder of the best complete checkpoint; None before the first validation.

    Raises UserError when best.json is damaged.
    """
    step = _best_step(run)
    folder = None if step is None else _folder(run, step)
    return folder if folder is not None and _marker(folder) is not None else None


def prune(run: str, *, keep_last: int, keep_epoch_ends: bool) -> None:
    """Delete all but the best, the newest `keep_last` and, if wanted, the ends of epochs."""
    steps = complete_steps(run)
    kept = {*steps[-keep_last:], _best_step(run)}
    for step in steps:
        folder = _folder(run, step)
        marker = _marker(folder)
        epoch_end = marker is not None and marker["epoch_end"]
        if step not in kept and not (keep_epoch_ends and epoch_end):
            _delete(folder)


def remove_incomplete(run: str) -> list[str]:
    """Delete half-written checkpoint folders of a process that died; return their names."""
    complete = {_folder_name(step) for step in complete_steps(run)}
    half = [name for name in _names(run) if "step-" in name and name not in complete]
    for name in half:
        storage.delete(storage.join(_root(run), name))
    return half


def require_same_plan(folder: str, stored: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuse to continue `folder` under a plan that its steps were not made with.

    Both arguments are trees; the UserError names the first key that differs and both values.
    """
    for key, now, before in differences(current, stored):
        raise UserError(
            f"{folder}: {key} was {before!r} and is now {now!r}; a resumed run keeps its plan: "
            "restore the value or choose another run folder"
        )


_MARKER = "COMPLETE"
_STATE = "state.json"
_TENSORS = ".safetensors"
_STEP_NAME = re.compile(r"step-(\d{8,})")


def _root(run: str) -> str:
    return storage.join(run, "checkpoints")


def _folder_name(step: int) -> str:
    return f"step-{step:08d}"


def _folder(run: str, step: int) -> str:
    return storage.join(_root(run), _folder_name(step))


def _names(run: str) -> list[str]:
    return storage.list_names(_root(run))


def _encode(snapshot: Snapshot) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save(snapshot.optimizer, buffer)
    files = {
        f"{stem}{_TENSORS}": safetensors.torch.save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        )
        for stem, tensors in snapshot.tensors.items()
    }
    state = json.dumps(snapshot.state, indent=2, allow_nan=False)
    return {**files, "optimizer.pt": buffer.getvalue(), _STATE: state.encode()}


def _read(folder: str, marker: dict[str, Any], name: str) -> bytes:
    """A file of a complete checkpoint, whose crc32 is the marker's."""
    content = storage.read_bytes(storage.join(folder, name))
    if zlib.crc32(content) != marker["files"][name]["crc32"]:
        raise UserError(
            f"{folder}/{name}: damaged (its crc32 differs from the one in {_MARKER}); delete "
            f"the folder to continue from the checkpoint before it"
        )
    return content


def _optimizer(folder: str, content: bytes) -> dict[str, Any]:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{folder}/optimizer.pt: holds more than tensors and plain values, or is damaged; it "
            f"could run code and is not read: delete the folder to continue from the one before"
        ) from error


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write a hidden sibling, sync every file, rename."""
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        for name, content in files.items():
            with open(temporary / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        storage.sync_folder(temporary)
        if folder.exists():  # half-written by other means: a complete one returned before
            shutil.rmtree(folder)
        os.rename(temporary, folder)
        storage.sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _complete_marker(folder: str) -> dict[str, Any]:
    marker = _marker(folder)
    if marker is None:
        raise UserError(f"{folder}: not a complete checkpoint (no {_MARKER} that fits its files)")
    return marker


def _marker(folder: str) -> dict[str, Any] | None:
    """The marker of a checkpoint whose files are all there with the right sizes, or None."""
    try:
        marker = json.loads(storage.read_bytes(storage.join(folder, _MARKER)))
    except (FileNotFoundError, ValueError):  # absent, or neither text nor JSON
        return None
    sizes = storage.file_sizes(folder)
    fits = all(sizes.get(name) == entry["bytes"] for name, entry in marker["files"].items())
    return marker if fits else None


def _best_step(run: str) -> int | None:
    pointer = _best_pointer(run)
    if not storage.exists(pointer):
        return None
    try:
        return int(records.read_json(pointer)["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{pointer}: damaged ({error}); delete it: --resume of its run writes it again"
        ) from error


def _best_pointer(run: str) -> str:
    return storage.join(_root(run), "best.json")


def _delete(folder: str) -> None:
    """The marker goes first, so that a kill in the middle leaves an incomplete folder."""
    storage.delete(storage.join(folder, _MARKER))
    storage.delete(folder)
