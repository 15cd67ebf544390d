"""Two trained tiny Moshis, alike but for TTT layers, that differ only beyond the attention window.

They ship in `ttt/assets/tiny_moshi_effect` and were made by `ttt.moshi.train_tiny` on chapters of
`LANGUAGE`, in which whoever remembers further back than attention reaches knows every second code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from moshi.models.lm import LMModel

from ttt.moshi.load import load_moshi
from ttt.moshi.ttt_files import load_ttt
from ttt.synthetic.chapters import SyntheticChapterConfig

ASSET = Path(__file__).parents[1] / "assets" / "tiny_moshi_effect"
"""Folders `baseline` and `ttt`, each in the layout of `load_moshi`; `ttt` is one of `load_ttt`
too."""
LANGUAGE = SyntheticChapterConfig(cues=8, cues_per_block=2, card=16)
"""What the models were trained on, and know how to hear."""


def load_tiny_effect(name: Literal["baseline", "ttt"], folder: Path = ASSET) -> LMModel:
    """One of the two models, in float32 on the CPU.

    Raises:
        UserError: the folder does not hold such a model.
    """
    lm = load_moshi(str(folder / name), dtype="float32").lm
    if name == "ttt":
        load_ttt(lm, folder / name)
    return lm
