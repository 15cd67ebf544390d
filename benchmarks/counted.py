"""What `python -m benchmarks.launches` counted last, and the times that follow from counts.

A GPU that does nothing else needs at least

    launches x 6 us        what eager PyTorch takes to hand one operation over, or
    bytes / bandwidth      of its memory, in practice nine tenths of the data sheet's,

whichever is more. The counts lie in counted.json, so that a machine with a GPU and nothing but the
light packages has the estimates beside what it measures; tests hold them to fresh counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cards import Card

SECONDS_PER_LAUNCH = 6e-6
BYTES_PER_SECOND = 3.0e12
"""What an H100's memory gives in practice of its 3.35 TB/s."""
IN_PRACTICE = 0.9
"""The same as a share, for other cards."""
CHUNK, KEPT = 64, 10
"""Steps of a pass, and how many of them stand where the text is the model's own."""
ROWS = 128
"""Steps that the depformer takes at once."""

CHAPTER_FRAMES, CHAPTER_LAUNCHES = 24_000, 5.4e6
"""A step of TTT training over one window of the 7B, TTT-MLP in 16 layers, as `python -m
benchmarks.ttt_training --memory` counted it on 2026-11-29: its half an hour is not spent anew."""

Counted = dict[str, Any]
_FILE = Path(__file__).with_name("counted.json")
_OF_PLACES = ("scene", "to_card", "launches_by_file", "kinds")
"""What is counted by place or by operation and not kept."""


def kept_counts() -> dict[str, Counted]:
    """The counts of the published size, by the names of `benchmarks.launches`."""
    return json.loads(_FILE.read_text(encoding="utf-8"))


def keep_counts(counts: Mapping[str, Counted]) -> None:
    """Write these counts into the file; those of other names stay."""
    kept = kept_counts() if _FILE.exists() else {}
    kept |= {name: without_places(counted) for name, counted in counts.items()}
    text = json.dumps(dict(sorted(kept.items())), indent=1)
    _FILE.write_text(text + "\n", encoding="utf-8")


def without_places(counted: Counted) -> Counted:
    """The numbers alone; of reads back and blocking copies how many there are."""
    short = {name: value for name, value in counted.items() if name not in _OF_PLACES}
    waiting = {name: sum(short[name].values()) for name in ("reads_back", "blocking_copies")}
    return {**short, **waiting}


def bandwidth(card: Card | None) -> float:
    """Bytes per second in practice; an H100's where the card is not listed."""
    return BYTES_PER_SECOND if card is None else IN_PRACTICE * card.bytes_per_second


def seconds(
    counted: Mapping[str, Any], bytes_per_second: float = BYTES_PER_SECOND
) -> tuple[float, float]:
    """What the launches take, and what the bytes take."""
    return (
        counted["launches"] * SECONDS_PER_LAUNCH,
        counted["gigabytes"] * 1e9 / bytes_per_second,
    )


def kept_steps(chance: float, steps: int) -> float:
    """Steps of a pass that stand where each guess is right with this chance, on its own."""
    return steps if chance == 1 else (1 - chance**steps) / (1 - chance)


def frames_per_second(
    a_pass: Mapping[str, Any],
    kept: float,
    depformer: Mapping[str, Any],
    rows: int = ROWS,
    bytes_per_second: float = BYTES_PER_SECOND,
) -> float:
    """Of passes that keep so many steps, of all recordings of a batch together, and of a
    depformer that takes so many rows of them at once."""
    heads = max(seconds(depformer, bytes_per_second)) * kept / rows
    return kept / (max(seconds(a_pass, bytes_per_second)) + heads)


def window_seconds(frames: int) -> float:
    """What the launches take of a step of TTT training over one micro-batch, whose windows have so
    many frames and share the launches, with TTT-MLP in 16 layers of the 7B.

    They follow from those of a whole chapter, since nearly all are TTT's, the same of every frame.
    """
    return CHAPTER_LAUNCHES * frames / CHAPTER_FRAMES * SECONDS_PER_LAUNCH
