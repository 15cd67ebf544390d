"""LitData: whole records by its StreamingDataLoader, and windows alone by `read_window`."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from benchmarks.peers.clips import GEOMETRY, Clips
from benchmarks.peers.loaders.protocol import (
    CORE_COARSE,
    LoaderStream,
    Order,
    Stream,
    cut,
    installed,
    window_start,
)


class LitRecords:
    """Records from chunks of 64 MB; the window is cut in the worker."""

    def write(self, clips: Clips, folder: Path) -> None:
        installed("litdata").optimize(
            functools.partial(_record, clips.folder),
            list(range(len(clips))),
            str(folder / "records"),
            chunk_bytes="64MB",
            num_workers=1,
            verbose=False,
        )
        listed = {"ids": clips.ids, "n_coarse": clips.n_coarse.tolist()}
        (folder / "clips.json").write_text(json.dumps(listed))

    @contextlib.contextmanager
    def open(self, folder: Path, order: Order, state: Any = None) -> Iterator[Stream]:
        litdata = installed("litdata")
        dataset = litdata.StreamingDataset(
            str(_repeated(folder / "records", order.repeats)), shuffle=True, seed=order.seed
        )
        loader = litdata.StreamingDataLoader(
            dataset,
            batch_size=order.batch,
            num_workers=order.workers,
            collate_fn=functools.partial(_windows, seed=order.seed),
        )
        yield LoaderStream(loader, state)


class LitWindows(LitRecords):
    """The same files by `read_window` under torch's DataLoader: who samples keeps the state."""

    @contextlib.contextmanager
    def open(self, folder: Path, order: Order, state: Any = None) -> Iterator[Stream]:
        assert state is None
        # Workers would each import what a read needs; a copy that is read once has imported it.
        _WindowsByIndex(folder, order)[0]
        yield LoaderStream(
            DataLoader(
                _WindowsByIndex(folder, order),
                order.batch,
                shuffle=True,
                num_workers=order.workers,
                generator=torch.Generator().manual_seed(order.seed),
            )
        )


class _WindowsByIndex(Dataset[dict[str, Any]]):
    def __init__(self, folder: Path, order: Order) -> None:
        self._folder = folder
        self._order = order
        listed = json.loads((folder / "clips.json").read_text())
        self._ids, self._n_coarse = listed["ids"], listed["n_coarse"]
        self._records: Any = None

    def __len__(self) -> int:
        return len(self._ids) * self._order.repeats

    def __getitem__(self, number: int) -> dict[str, Any]:
        if self._records is None:  # One in each process, as documented.
            self._records = installed("litdata").StreamingDataset(str(self._folder / "records"))
        row = number % len(self._ids)
        start = window_start(self._ids[row], self._n_coarse[row], self._order.seed)
        fields = ["codes", "audio"]
        window = self._records.read_window(row, start=start, frames=CORE_COARSE, fields=fields)
        return {
            "clip_id": self._ids[row],
            "start": start,
            "codes": torch.as_tensor(window["codes"]),
            "audio": torch.as_tensor(window["audio"]).reshape(-1),
        }


def _record(plain: Path, row: int) -> dict[str, Any]:
    # Frames along the first axis of both, as `read_window` wants them.
    clips = Clips(plain)
    audio = clips.audio(row).reshape(-1, GEOMETRY.coarse_samples_48k)
    return {"clip_id": clips.ids[row], "codes": clips.codes(row).copy(), "audio": audio.copy()}


def _windows(records: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    return default_collate(
        [cut(r["clip_id"], r["codes"], r["audio"].reshape(-1), seed) for r in records]
    )


def _repeated(records: Path, times: int) -> Path:
    """A dataset that has every chunk several times: links to the same files."""
    if times == 1:
        return records
    longer = records.with_name(f"{records.name}-{times}")
    if not longer.exists():
        longer.mkdir()
        index = json.loads((records / "index.json").read_text())
        chunks = []
        for chunk in index["chunks"]:
            for copy in range(times):
                name = f"chunk-{copy}-{chunk['filename'].removeprefix('chunk-')}"
                os.link(records / chunk["filename"], longer / name)
                chunks.append({**chunk, "filename": name})
        (longer / "index.json").write_text(json.dumps({**index, "chunks": chunks}))
    return longer
