"""The clips that everyone reads: written once as our cache, and laid out plainly for the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ttt.snac.geometry import CodeGeometry

GEOMETRY = CodeGeometry.preset("snac_24khz")


class Clips:
    """Clips in a folder of plain files: audio.bin, codes.bin and clips.json, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = json.loads((folder / "clips.json").read_text())
        self.ids: list[str] = listed["ids"]
        self.n_coarse = np.array(listed["n_coarse"], np.int64)
        ends = np.cumsum(self.n_coarse)
        self._begins = ends - self.n_coarse
        width = GEOMETRY.codes_per_coarse
        # Copy on write: arrays that torch takes without a warning, and nobody writes to.
        self._codes = np.memmap(folder / "codes.bin", np.int16, "c").reshape(-1, width)
        self._audio = np.memmap(folder / "audio.bin", np.int16, "c")

    def __len__(self) -> int:
        return len(self.ids)

    def codes(self, row: int, start: int = 0, count: int | None = None) -> np.ndarray:
        """int16 [count, codes_per_coarse]; the whole clip without a count."""
        first, last = self._span(row, start, count)
        return self._codes[first:last]

    def audio(self, row: int, start: int = 0, count: int | None = None) -> np.ndarray:
        """int16 [samples] at 48 kHz; `start` and `count` in coarsest tokens."""
        first, last = self._span(row, start, count)
        return self._audio[GEOMETRY.samples_48k(first) : GEOMETRY.samples_48k(last)]

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for row, clip_id in enumerate(self.ids):
            yield clip_id, self.codes(row), self.audio(row)

    def _span(self, row: int, start: int, count: int | None) -> tuple[int, int]:
        count = int(self.n_coarse[row]) - start if count is None else count
        first = int(self._begins[row]) + start
        return first, first + count


def write_clips(cache_uri: str, folder: Path) -> None:
    """Write the clips of one of our caches as plain files."""
    # Not above: peers read clips too, in environments that need not read our cache.
    from ttt.snac.cache.index import open_cache

    folder.mkdir(parents=True)
    cache = open_cache(cache_uri)
    n_coarse = cache.catalogue.n_coarse.tolist()
    with (folder / "audio.bin").open("wb") as audio, (folder / "codes.bin").open("wb") as codes:
        for row, count in enumerate(n_coarse):
            audio.write(cache.read_audio(row, 0, GEOMETRY.samples_48k(count)).tobytes())
            codes.write(cache.read_codes(row, 0, count).tobytes())
    listed = {"ids": list(cache.catalogue.clip_ids), "n_coarse": n_coarse}
    (folder / "clips.json").write_text(json.dumps(listed))
