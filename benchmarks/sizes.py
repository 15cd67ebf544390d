"""How large the models are that launches are counted and GPUs are measured with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ttt.moshi.training.config import (
    MemoryConfig,
    MoshiTrainingConfig,
    TTTLayersConfig,
    WindowStageConfig,
)
from ttt.snac.config import EncodeConfig

SHAPE_7B = {
    "context": 3000,
    "dim": 4096,
    "num_layers": 32,
    "num_heads": 32,
    "card": 2048,
    "text_card": 32000,
    "depformer_dim": 1024,
    "depformer_layers": 6,
    "depformer_heads": 16,
}
"""Moshi's published shape, as arguments of `tiny_lm`."""


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    encoder_dim: int
    decoder_dim: int
    codebook_size: int
    clips: int
    coarse: int
    """Coarsest tokens of a training window."""
    moshi: dict[str, Any]
    ttt_layers: range
    chunk: int
    kept_steps: int
    """Steps of own text that stand in every pass."""
    encode: EncodeConfig
    to_encode: tuple[float, ...]
    """Seconds of the clips to encode."""
    chapter_frames: int
    """Frames of the longest window that TTT is trained on."""
    window_frames: int
    """Frames of a shorter one."""
    known_text: tuple[tuple[int, int], ...]
    """(batch, chunk) of the passes over known text that are counted and measured."""
    own_text: tuple[tuple[int, int], ...]
    """The same where the text is the model's own."""


# Clips of the same length share a batch of a minute.
PUBLISHED = Size(
    encoder_dim=48,
    decoder_dim=1024,
    codebook_size=4096,
    clips=8,
    coarse=11,
    moshi=SHAPE_7B,
    ttt_layers=range(8, 24),
    chunk=64,
    kept_steps=10,
    encode=EncodeConfig(),
    to_encode=9 * (6.4,),
    chapter_frames=24_000,
    window_frames=3_000,
    known_text=((1, 1), (1, 16), (1, 64), (1, 128), (4, 64), (8, 32)),
    own_text=((1, 16), (1, 24), (1, 64)),
)
SMALL = Size(
    encoder_dim=4,
    decoder_dim=64,
    codebook_size=64,
    clips=2,
    coarse=3,
    moshi={"context": 24, "dim": 64, "num_layers": 3, "num_heads": 4, "depformer_dim": 32},
    ttt_layers=range(1, 3),
    chunk=64,
    kept_steps=40,
    encode=EncodeConfig(chunk_seconds=1, max_batch_seconds=2),
    to_encode=(1.0, 3.0),
    chapter_frames=96,
    window_frames=48,
    known_text=((1, 32), (1, 64), (2, 32)),
    own_text=((1, 64),),
)
MID = dataclasses.replace(
    SMALL,
    moshi={
        "context": 250, "dim": 512, "num_layers": 8, "num_heads": 8, "card": 2048,
        "depformer_dim": 256, "depformer_layers": 4,
    },
    ttt_layers=range(2, 6),
    chapter_frames=2_000,
)  # fmt: skip
SIZES = {"small": SMALL, "mid": MID, "published": PUBLISHED}

ALL = MemoryConfig(checkpoint_layers=True, checkpoint_mini_batches="auto", head_block=250)
"""All that saves memory, as configs/train_ttt.yaml asks; attention in blocks of the window."""
WHOLE_CHAPTER = dataclasses.replace(ALL, head_block=1000)
"""The same for windows that are whole chapters, of which blocks of 250 frames would be many."""


def windows_config(
    layers: Sequence[int], windows: int, frames: int, memory: MemoryConfig
) -> MoshiTrainingConfig:
    """The training of TTT-MLP in these layers, over micro-batches of so many windows."""
    return MoshiTrainingConfig(
        ttt=TTTLayersConfig(layers=tuple(layers)),
        stages=(WindowStageConfig(frames=frames, steps=2, frames_per_step=windows * frames),),
        text="pad",
        other="masked",
        memory=memory,
    )
