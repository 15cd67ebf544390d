"""What is said of a checkpoint of the original TTT code that was made into layers of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ttt.layers import TTTConfig
from ttt.moshi.lora import StoredLora

FAULTS = (
    "post_norm and the output projection (wo) were never applied, and so never trained: here both "
    "are, as the architecture has them",
    "a frame saw the later frames of its mini-batch: here none does",
    "while streaming, every frame was filled up to a mini-batch with zeros, which were learnt from "
    "as frames are: here only frames are",
    "in some versions queries and keys were not brought to unit length and targets not "
    "standardised: here they are, as in ttt-video-dit",
    "in some versions what was learnt was written into W1, b1, W2 and b2 themselves: these may "
    "hold what the last recording left, not what was trained",
    "the target was standardised with an epsilon of 1e-5: here it is 1e-8",
)
"""Why a checkpoint's numbers will be others here."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of tensors that are alike, one in every layer."""

    theirs: str
    ours: str | None
    """None: dropped."""
    tensors: int
    why: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class ImportReport:
    """What was made of a checkpoint, and what was decided on the way."""

    source: str
    """The file of the tensors."""
    layers: tuple[int, ...]
    config: TTTConfig
    attention_context: int | None
    base: str | None
    """What training_config.json calls the base model."""
    fingerprint: str | None
    """Of the base model, where the file holds all of it."""
    rows: tuple[Row, ...]
    decisions: tuple[str, ...]
    lora: StoredLora | None
    """A LoRA in the same file, which belongs beside the layers."""
    lora_config: Mapping[str, Any]
    """config.json, for it."""

    def lines(self) -> list[str]:
        """The report as text, a table first."""
        width = max(len(row.theirs) for row in self.rows)
        table = [
            f"  {row.theirs:{width}}  {row.tensors:4}  "
            f"{'-> ' + row.ours if row.ours else 'dropped: ' + row.why}"
            for row in self.rows
        ]
        return [
            f"{self.source}: TTT-{self.config.kind} in layers {', '.join(map(str, self.layers))}",
            *table,
            "decided:",
            *(f"  {text}" for text in self.decisions),
            "why the numbers will be others than the original's:",
            *(f"  {text}" for text in FAULTS),
        ]
