"""Every way of reading that is measured: its loader and the environment it runs in."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from benchmarks.peers.loaders.protocol import Loader


@dataclass(frozen=True)
class Way:
    """One row of the tables."""

    words: str
    target: str
    """Module and class of its loader, which is imported in its own process."""
    environment: str | None = None
    """A list of pins beside the loaders, without .txt; None for the project's own environment."""
    packages: tuple[str, ...] = ()
    """Whose versions belong to the result."""
    files: str | None = None
    """The way whose files it reads; its own when None."""
    resumes: bool = True
    """Whether it has a mechanism for it."""

    def loader(self) -> Loader:
        """The loader; imports its module."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(f"benchmarks.peers.loaders.{module}"), name)()


WAYS = {
    "ours": Way("ours, through Ray Data", "ray_data:ThroughRay", None, ("ray", "pyarrow")),
    "ours_in_process": Way("ours, in process (one thread ahead, no workers)", "ours:InProcess"),
    "mmap": Way(
        "plain mmap, torch DataLoader", "mapped:Mapped", None, ("torch", "numpy"), resumes=False
    ),
    "stateful": Way(
        "plain mmap, torchdata StatefulDataLoader", "mapped:Stateful", "torchdata", ("torchdata",)
    ),
    "mds": Way("MosaicML streaming (MDS)", "mds:Mds", "mosaicml", ("mosaicml-streaming", "numpy")),
    "wds": Way("WebDataset", "wds:Wds", "webdataset", ("webdataset",), resumes=False),
    "lit": Way("LitData, StreamingDataLoader", "lit:LitRecords", "litdata", ("litdata",)),
    "lit_windows": Way(
        "LitData, `read_window`, torch DataLoader",
        "lit:LitWindows",
        "litdata",
        files="lit",
        resumes=False,
    ),
    "hf": Way(
        "HF datasets, rows as Arrow, StatefulDataLoader",
        "hf:HfRows",
        "datasets",
        ("datasets", "pyarrow", "torchdata"),
    ),
    "hf_stream": Way(
        "HF datasets, stream, shuffle buffer of 256", "hf:HfStream", "datasets", files="hf"
    ),
    "hf_stream_by_shard": Way(
        "the same with `max_buffer_input_shards=1`", "hf:HfStreamByShard", "datasets", files="hf"
    ),
}
OWN = tuple(name for name, way in WAYS.items() if way.environment is None)
"""Those that need nothing installed."""
