"""A plain dataset over mapped files with torch's DataLoader, and the same with torchdata's.

The honest baseline: the files are the plain ones that every peer's were made of. torch's loader
keeps no state; torchdata's StatefulDataLoader does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers.clips import Clips
from benchmarks.peers.loaders.protocol import (
    CORE_COARSE,
    LoaderStream,
    Order,
    Stream,
    installed,
    link_files,
    window_start,
)


class Mapped:
    """torch's DataLoader over mapped files."""

    def write(self, clips: Clips, folder: Path) -> None:
        link_files(clips.folder, folder / "plain")

    @contextlib.contextmanager
    def open(self, folder: Path, order: Order, state: Any = None) -> Iterator[Stream]:
        assert state is None
        yield LoaderStream(self._loader(DataLoader, folder, order))

    def _loader(self, kind: Any, folder: Path, order: Order) -> Any:
        return kind(
            MappedWindows(Clips(folder / "plain"), order),
            order.batch,
            shuffle=True,
            num_workers=order.workers,
            generator=torch.Generator().manual_seed(order.seed),
        )


class Stateful(Mapped):
    """The same with torchdata's StatefulDataLoader, which can be resumed."""

    @contextlib.contextmanager
    def open(self, folder: Path, order: Order, state: Any = None) -> Iterator[Stream]:
        kind = installed("torchdata.stateful_dataloader").StatefulDataLoader
        loader = self._loader(kind, folder, order)
        yield LoaderStream(loader, state)


class MappedWindows(Dataset[dict[str, Any]]):
    """One window per clip, sliced out of the mapped files."""

    def __init__(self, clips: Clips, order: Order) -> None:
        self._clips = clips
        self._order = order

    def __len__(self) -> int:
        return len(self._clips) * self._order.repeats

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = number % len(self._clips)
        clip_id = self._clips.ids[row]
        start = window_start(clip_id, int(self._clips.n_coarse[row]), self._order.seed)
        return {
            "clip_id": clip_id,
            "start": start,
            "codes": torch.from_numpy(self._clips.codes(row, start, CORE_COARSE)),
            "audio": torch.from_numpy(self._clips.audio(row, start, CORE_COARSE)),
        }
