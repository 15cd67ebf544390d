"""MosaicML streaming: MDS shards, StreamingDataset and its StreamingDataLoader."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import default_collate

from benchmarks.peers.clips import Clips
from benchmarks.peers.loaders.protocol import LoaderStream, Order, Stream, cut, installed

COLUMNS = {"clip_id": "str", "codes": "ndarray:int16", "audio": "ndarray:int16"}


class Mds:
    """Whole samples from shards of 64 MiB; the window is cut in the worker."""

    def write(self, clips: Clips, folder: Path) -> None:
        writer = installed("streaming").MDSWriter
        with writer(out=str(folder / "mds"), columns=COLUMNS) as shards:
            for clip_id, codes, audio in clips:
                shards.write({"clip_id": clip_id, "codes": codes, "audio": audio})

    @contextlib.contextmanager
    def open(self, folder: Path, order: Order, state: Any = None) -> Iterator[Stream]:
        streaming = installed("streaming")
        # As documented for a run that follows a killed one.
        streaming.base.util.clean_stale_shared_memory()
        dataset = streaming.StreamingDataset(
            streams=[streaming.Stream(local=str(folder / "mds"), repeat=order.repeats)],
            batch_size=order.batch,
            shuffle=True,
            shuffle_seed=order.seed,
        )
        loader = streaming.StreamingDataLoader(
            dataset,
            batch_size=order.batch,
            num_workers=order.workers,
            collate_fn=functools.partial(_windows, seed=order.seed),
        )
        yield LoaderStream(loader, state)


def _windows(samples: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    return default_collate([cut(s["clip_id"], s["codes"], s["audio"], seed) for s in samples])
