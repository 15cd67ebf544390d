"""A random codec, as a folder, and a small cache of random codes and fading noise for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from tests.conftest import build_nano_snac
from ttt.snac.cache.shards import Clip, CodecIdentity, build_index, write_shard
from ttt.snac.export import snac_config
from ttt.snac.geometry import CodeGeometry
from ttt.snac.load import weights_sha256


def write_nano_codec(folder: Path, seed: int = 0) -> Path:
    """`build_nano_snac` in the hub's layout."""
    codec = build_nano_snac(seed)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(snac_config(codec)))
    torch.save(codec.state_dict(), folder / "pytorch_model.bin")
    return folder


def write_nano_cache(folder: Path, n_clips: int) -> Path:
    """Clips of 6, 7, 8, ... coarsest tokens, named clip00, clip01, ..."""
    codec = build_nano_snac()
    geometry = CodeGeometry.of(codec)
    random = np.random.default_rng(0)
    clips = []
    for index in range(n_clips):
        n_coarse = 6 + index
        n_samples = geometry.samples_48k(n_coarse) - 100 * index
        audio = random.normal(0, 3000, n_samples).clip(-32768, 32767).astype(np.int16)
        codes = tuple(
            random.integers(0, geometry.codebook_size, length).astype(np.int16)
            for length in geometry.lengths(n_coarse)
        )
        clips.append(Clip(f"clip{index:02d}", codes, audio, n_samples))
    identity = CodecIdentity("nano", weights_sha256(codec))
    write_shard(folder / "shards" / "shard-00000.parquet", clips, geometry, identity)
    build_index(folder)
    return folder
