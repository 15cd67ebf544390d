"""A validation window on TensorBoard: its audio and spectrograms."""

from __future__ import annotations

import io
from typing import Any

import matplotlib.image
from torch import Tensor

from ttt.plots import spectrograms
from ttt.snac.geometry import TARGET_RATE
from ttt.snac.train.validation import Example


def show_example(board: Any, index: int, example: Example, step: int) -> None:
    """Show a window on a SummaryWriter; what training does not change is shown at step 0 alone."""
    for name, audio in _signals(example).items():
        if step == 0 or name == "ours":
            board.add_audio(f"example {index}/{name}", audio[None], step, TARGET_RATE)
    board.add_image(f"example {index}", _picture(example), step, dataformats="HWC")


def _signals(example: Example) -> dict[str, Tensor]:
    return {
        "true": example.reference,
        "ours": example.ours,
        "resampled decode24": example.resampled,
    }


def _picture(example: Example) -> Any:
    """Spectrograms side by side, RGB [height, width, 3]."""
    signals = {name: audio.numpy() for name, audio in _signals(example).items()}
    png = spectrograms(signals, TARGET_RATE, title=example.clip_id)
    return matplotlib.image.imread(io.BytesIO(png))[:, :, :3]
