"""Passages of clips to see and hear: kept beside an evaluation's report, shown on pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ttt import records, storage
from ttt.audio import flac_bytes
from ttt.plots import spectrograms
from ttt.snac.evaluation.systems import BASELINE, CEILING, FOLDING_HISS, OURS, TRUE
from ttt.snac.geometry import TARGET_RATE

PANELS = {
    TRUE: "True 48 kHz",
    BASELINE: "Codec 24 kHz, resampled",
    FOLDING_HISS: "The same + folding + hiss",
    OURS: "Ours, 48 kHz",
    CEILING: "True 24 kHz, resampled",
}
"""The versions of a passage that a page shows, in their order: system -> words."""
_LIST = "examples.json"


@dataclass(frozen=True, eq=False)
class Example:
    """A passage of one clip in all its versions."""

    clip_id: str
    place: str
    """Its rank, such as "best of 12", and the number that ranked it."""
    start_seconds: float
    audio: Mapping[str, np.ndarray]
    """TRUE and systems -> int16 [T] at 48 kHz."""


def panels(example: Example, names: Mapping[str, str] = PANELS) -> dict[str, Any]:
    """What a template shows of an example: title, picture with its words, and sounds by name.

    Versions that the example lacks are left out.
    """
    named = {name: example.audio[key] for key, name in names.items() if key in example.audio}
    seconds = len(example.audio[TRUE]) / TARGET_RATE
    return {
        "title": f"{example.clip_id} ({example.place})",
        "png": spectrograms(named, TARGET_RATE),
        "alt": f"Spectrograms of {example.clip_id}: {', '.join(named)}",
        "caption": f"{seconds:.1f} s from second {example.start_seconds:.1f}",
        "sounds": {name: flac_bytes(audio, TARGET_RATE) for name, audio in named.items()},
    }


def write_examples(folder: Path, examples: Sequence[Example]) -> None:
    """Write each example as FOLDER/1/SYSTEM.flac and so on, and what they are to examples.json."""
    listed = []
    for number, example in enumerate(examples, start=1):
        for system, audio in example.audio.items():
            storage.write_bytes(
                folder / str(number) / f"{system}.flac", flac_bytes(audio, TARGET_RATE)
            )
        listed.append(
            {
                "folder": str(number),
                "clip_id": example.clip_id,
                "place": example.place,
                "start_seconds": example.start_seconds,
                "systems": list(example.audio),
            }
        )
    records.write_json(folder / _LIST, listed)


def read_examples(folder: Path) -> list[Example]:
    """What `write_examples` wrote into the folder."""
    return [
        Example(
            each["clip_id"],
            each["place"],
            each["start_seconds"],
            {
                system: soundfile.read(folder / each["folder"] / f"{system}.flac", dtype="int16")[0]
                for system in each["systems"]
            },
        )
        for each in records.read_json(folder / _LIST)
    ]
