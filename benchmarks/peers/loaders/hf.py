"""Hugging Face datasets: rows of a mapped Arrow table, and its stream with a shuffle buffer."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.utils.data import Dataset

from benchmarks.peers.clips import Clips
from benchmarks.peers.loaders.protocol import LoaderStream, Order, Stream, cut_bytes, installed

BUFFERED = 256
"""Windows of the shuffle buffer of a worker."""
SHARDS = 8


class HfRows:
    """Random rows of a mapped table as Arrow, without a copy, under a StatefulDataLoader."""

    def write(self, clips: Clips, folder: Path) -> None:
        datasets = installed("datasets")
        kinds = {"clip_id": "string", "codes": "binary", "audio": "binary"}
        features = datasets.Features({name: datasets.Value(kind) for name, kind in kinds.items()})
        made = datasets.Dataset.from_generator(
            _rows,
            features=features,
            cache_dir=str(folder / "cache"),
            gen_kwargs={"plain": str(clips.folder)},
        )
        made.save_to_disk(str(folder / "rows"), num_shards=SHARDS)
        # Written once already, as files of its cache.
        del made
        shutil.rmtree(folder / "cache")

    @contextlib.contextmanager
    def open(self, folder: Path, order: Order, state: Any = None) -> Iterator[Stream]:
        datasets = installed("datasets")
        rows = datasets.load_from_disk(str(folder / "rows"))
        rows = datasets.concatenate_datasets([rows] * order.repeats).with_format("arrow")
        kind = installed("torchdata.stateful_dataloader").StatefulDataLoader
        loader = kind(
            _Windows(rows, order.seed),
            order.batch,
            shuffle=True,
            num_workers=order.workers,
            generator=torch.Generator().manual_seed(order.seed),
        )
        yield LoaderStream(loader, state)


class HfStream(HfRows):
    """The same table as an IterableDataset of 8 shards with a shuffle buffer.

    Unformatted: as Arrow it is several times slower.
    """

    _buffer: ClassVar[dict[str, int]] = {"buffer_size": BUFFERED}

    @contextlib.contextmanager
    def open(self, folder: Path, order: Order, state: Any = None) -> Iterator[Stream]:
        datasets = installed("datasets")
        rows = datasets.load_from_disk(str(folder / "rows"))
        rows = datasets.concatenate_datasets([rows] * order.repeats)
        windows = (
            rows.to_iterable_dataset(num_shards=SHARDS)
            .map(functools.partial(_window, seed=order.seed), remove_columns=rows.column_names)
            .shuffle(seed=order.seed, **self._buffer)
        )
        kind = installed("torchdata.stateful_dataloader").StatefulDataLoader
        loader = kind(windows, order.batch, num_workers=order.workers)
        yield LoaderStream(loader, state)


class HfStreamByShard(HfStream):
    """The same with a buffer that is filled from one shard at a time, which can be resumed."""

    _buffer: ClassVar[dict[str, int]] = {"buffer_size": BUFFERED, "max_buffer_input_shards": 1}


class _Windows(Dataset[dict[str, Any]]):
    def __init__(self, rows: Any, seed: int) -> None:
        self._rows = rows
        self._seed = seed

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, numbers: list[int]) -> list[dict[str, Any]]:
        """The windows of a batch by one query, as torch asks its data sets that offer it."""
        rows = self._rows[numbers]
        columns = (rows[name] for name in ("clip_id", "codes", "audio"))
        return [
            cut_bytes(clip_id.as_py(), codes.as_buffer(), audio.as_buffer(), self._seed)
            for clip_id, codes, audio in zip(*columns, strict=True)
        ]


def _window(row: dict[str, Any], seed: int) -> dict[str, Any]:
    return cut_bytes(row["clip_id"], row["codes"], row["audio"], seed)


def _rows(plain: str) -> Iterator[dict[str, Any]]:
    for clip_id, codes, audio in Clips(Path(plain)):
        yield {"clip_id": clip_id, "codes": codes.tobytes(), "audio": audio.tobytes()}
