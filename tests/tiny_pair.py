"""The two models of the tiny pair, loaded as an evaluation does."""

from __future__ import annotations

from typing import Literal

from moshi.models.lm import LMModel

from ttt.moshi.load import load_moshi
from ttt.moshi.tiny_pair import ASSET
from ttt.moshi.ttt_files import load_ttt


def load_tiny_pair(name: Literal["baseline", "ttt"]) -> LMModel:
    """One of the two, in float32 on the CPU."""
    lm = load_moshi(str(ASSET / "baseline"), dtype="float32").lm
    if name == "ttt":
        load_ttt(lm, ASSET / name)
    return lm
