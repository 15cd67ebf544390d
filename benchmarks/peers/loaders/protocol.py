"""What a way of reading windows has to offer to be measured, and the window all of them cut.

A sample is one random window of 1 s per clip and epoch: int16 codes and int16 audio. Where it
starts is a hash of (seed, clip), so that a window can be recognised after a resume; ours draws
its own, by its plan.
"""

from __future__ import annotations

import importlib
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.peers.clips import GEOMETRY, Clips

CORE_COARSE = 12
"""Coarsest tokens of a window: 1.024 s."""
CORE_SAMPLES = GEOMETRY.samples_48k(CORE_COARSE)

Sample = tuple[str, int]
"""A clip and the coarsest token at which its window starts."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which epoch is read, and how."""

    seed: int
    workers: int = 2
    batch: int = 32
    repeats: int = 1
    """How often each clip comes: a longer epoch over the same files."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What reaches the training loop: B windows."""

    clip_ids: list[str]
    codes: torch.Tensor
    """int16 [B, L, codes_per_coarse]."""
    audio: torch.Tensor
    """int16 [B, T] at 48 kHz."""
    starts: list[int] | None = None
    """Where each starts, in coarsest tokens; None where only `Stream.starts` can tell."""


class Stream(Protocol):
    """One epoch, or what is left of it."""

    def __iter__(self) -> Iterator[Batch]: ...

    def starts(self, batch: Batch) -> list[int]:
        """Where the windows of the batch that was delivered last start."""
        ...

    def state(self) -> Any:
        """What `open` continues with after the batch that was delivered last."""
        ...


class Loader(Protocol):
    """A way of keeping clips and of reading windows from them."""

    def write(self, clips: Clips, folder: Path) -> None:
        """Write its files from ours or from plain ones; `folder` is there and empty."""
        ...

    def open(self, folder: Path, order: Order, state: Any = None) -> AbstractContextManager[Stream]:
        """What can be done before the epoch is asked for; `state` is another stream's."""
        ...


def cut(clip_id: str, codes: np.ndarray, audio: np.ndarray, seed: int) -> dict[str, Any]:
    """A sample of a whole clip, codes [n, codes_per_coarse] and audio [samples], uncopied."""
    start = window_start(clip_id, len(codes), seed)
    first = GEOMETRY.samples_48k(start)
    return {
        "clip_id": clip_id,
        "start": start,
        "codes": torch.from_numpy(codes[start : start + CORE_COARSE]),
        "audio": torch.from_numpy(audio[first : first + CORE_SAMPLES]),
    }


def cut_bytes(clip_id: str, codes: Any, audio: Any, seed: int) -> dict[str, Any]:
    """As `cut`, of buffers of int16."""
    shaped = np.frombuffer(codes, np.int16).reshape(-1, GEOMETRY.codes_per_coarse)
    return cut(clip_id, shaped, np.frombuffer(audio, np.int16), seed)


def window_start(clip_id: str, n_coarse: int, seed: int) -> int:
    """Where the window of a clip starts, in coarsest tokens."""
    return zlib.crc32(f"{seed} {clip_id}".encode()) % (n_coarse - CORE_COARSE + 1)


def batch_of(collated: dict[str, Any]) -> Batch:
    """The batch that torch's default collation makes of `cut`'s samples."""
    starts = collated["start"].tolist()
    return Batch(list(collated["clip_id"]), collated["codes"], collated["audio"], starts)


class LoaderStream:
    """A stream of a data loader that yields collated samples, from a state on if one is given."""

    def __init__(self, loader: Any, state: Any = None) -> None:
        if state is not None:
            loader.load_state_dict(state)
        self._loader = loader

    def __iter__(self) -> Iterator[Batch]:
        return map(batch_of, self._loader)

    def starts(self, batch: Batch) -> list[int]:
        assert batch.starts is not None
        return batch.starts

    def state(self) -> Any:
        return self._loader.state_dict()


def installed(module: str) -> Any:
    """A module of a peer, which is installed in the peer's own environment alone."""
    return importlib.import_module(module)


def link_files(source: Path, target: Path) -> None:
    """Let `target` have all files of a folder, without their bytes again."""
    shutil.copytree(source, target, copy_function=os.link)
