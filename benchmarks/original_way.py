"""How the original project read its samples, to measure against: whole files for each one.

A parquet holds the codes of a thousand clips and a folder their wavs; every sample reads both
whole and cuts its window out. Codes are list<int64> and each has its shape beside it, as there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch

from ttt.snac.geometry import TARGET_RATE, CodeGeometry

CODE_ROWS = 1000


def write_original(shards: list[str], folder: Path) -> None:
    """Write the clips of our shards in the original's layout, repeated to `CODE_ROWS` rows."""
    folder.mkdir()
    table = pa.concat_tables([pq.read_table(shard) for shard in shards])
    names = [f"{row}.wav" for row in range(len(table))]
    for row, name in enumerate(names):
        audio = np.frombuffer(table["audio"][row].as_buffer(), np.int16)
        soundfile.write(folder / name, audio, TARGET_RATE)
    columns: dict[str, pa.ChunkedArray] = {}
    for scale in range(3):
        codes = table[f"codes_{scale}"].cast(pa.list_(pa.int64()))
        lengths = [[1, len(row)] for row in codes.to_pylist()]
        columns[f"codes_scale_{scale}"] = codes
        columns[f"shape_scale_{scale}"] = pa.chunked_array([lengths], pa.list_(pa.int64()))
    columns["file_path"] = pa.chunked_array([names])
    columns["audio_length"] = table["n_samples"].cast(pa.int64())
    repeated = np.resize(np.arange(len(table)), CODE_ROWS)
    pq.write_table(pa.table(columns).take(pa.array(repeated)), folder / "codes.parquet")


class OriginalDataset(torch.utils.data.Dataset):
    """Float32 windows [samples] of `core_coarse` tokens; `CODE_ROWS` of them."""

    def __init__(self, folder: Path, geometry: CodeGeometry, core_coarse: int) -> None:
        self._folder = folder
        self._geometry = geometry
        self._core_coarse = core_coarse

    def __len__(self) -> int:
        return CODE_ROWS

    def __getitem__(self, row: int) -> torch.Tensor:
        clip = pq.read_table(self._folder / "codes.parquet").slice(row, 1)
        audio, _ = soundfile.read(self._folder / clip["file_path"][0].as_py(), dtype="float32")
        room = len(clip["codes_scale_0"][0]) - self._core_coarse
        start = self._geometry.samples_48k(int(torch.randint(room + 1, ())))
        return torch.from_numpy(
            audio[start : start + self._geometry.samples_48k(self._core_coarse)]
        )
