"""WebDataset: tar files, read from end to end, with a shuffle buffer of windows."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import default_collate

from benchmarks.peers.clips import Clips
from benchmarks.peers.loaders.protocol import LoaderStream, Order, Stream, cut_bytes, installed

SHARD_BYTES = 64 * 2**20
BUFFERED = 256
"""Windows of the shuffle buffer of a worker."""


class Wds:
    """Raw members of shuffled tars; batches are made in the worker, as documented."""

    def write(self, clips: Clips, folder: Path) -> None:
        pattern = str(folder / "clips-%06d.tar")
        # Every worker wants a tar of its own, however few clips there are.
        size = min(SHARD_BYTES, sum(audio.nbytes for _, _, audio in clips) // 8)
        with installed("webdataset").ShardWriter(pattern, maxsize=size, verbose=0) as shards:
            for clip_id, codes, audio in clips:
                members = {"codes": codes.tobytes(), "audio": audio.tobytes()}
                shards.write({"__key__": clip_id, **members})

    @contextlib.contextmanager
    def open(self, folder: Path, order: Order, state: Any = None) -> Iterator[Stream]:
        assert state is None
        wds = installed("webdataset")
        urls = sorted(map(str, folder.glob("*.tar"))) * order.repeats
        windows = (
            wds.WebDataset(urls, shardshuffle=len(urls), seed=order.seed)
            .map(functools.partial(_window, seed=order.seed))
            .shuffle(BUFFERED, rng=random.Random(order.seed))
            .batched(order.batch, collation_fn=default_collate)
        )
        yield LoaderStream(wds.WebLoader(windows, batch_size=None, num_workers=order.workers))


def _window(sample: dict[str, Any], seed: int) -> dict[str, Any]:
    return cut_bytes(sample["__key__"], sample["codes"], sample["audio"], seed)
