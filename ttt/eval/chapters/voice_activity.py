"""What the .json beside a recording says of it: its speaker, and where there is speech."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttt.errors import UserError
from ttt.files.errors import reading
from ttt.files.text import read_text


@dataclass(frozen=True)
class Spans:
    """Stretches of speech in a recording."""

    samples: tuple[tuple[int, int], ...]
    """(first, the one after the last), ascending; none overlaps another."""
    changed: str | None = None
    """What was done to the spans as they were written down; None for nothing."""


def description_beside(audio: Path) -> Path:
    """The .json beside a recording, whatever the case of its suffix; it need not be there."""
    plain = audio.with_suffix(".json")
    upper = audio.with_suffix(".JSON")
    return upper if upper.exists() and not plain.exists() else plain


def read_description(path: Path) -> dict[str, Any]:
    """The content of such a .json. Raises UserError when it is no JSON or no description."""
    with reading(path, "JSON"):
        described = json.loads(read_text(path))
    if not isinstance(described, dict):
        raise UserError(f"{path}: holds no description of a chapter")
    return described


def read_speaker(path: Path, unknown: str) -> str:
    """The "speaker" of a description, or `unknown` without one. Raises UserError."""
    speaker = read_description(path).get("speaker")
    if speaker is None or speaker == "":
        return unknown
    if isinstance(speaker, bool) or not isinstance(speaker, str | int):
        raise UserError(f"{path}: its speaker is {_brief(speaker)}; needed is a name or a number")
    return str(speaker)


def read_voice_activity(path: Path, rate: int, samples: int) -> Spans:
    """The "voice_activity" of a description, [on, off] in seconds, as samples of the recording.

    What lies outside the recording is cut off. Spans are put into the order of time, and those
    that overlap are merged, so that nothing is heard twice.

    Raises:
        UserError: no list of spans, a span that is not two finite numbers or ends before it
            begins, or none inside the recording.
    """
    activity = read_description(path).get("voice_activity")
    if not isinstance(activity, list):
        raise UserError(f"{path}: has no voice_activity of [on, off] in seconds")
    spans = [_span(path, place, span, rate) for place, span in enumerate(activity)]
    inside = [(max(on, 0), min(off, samples)) for on, off in spans]
    inside = [(on, off) for on, off in inside if off > on]
    if not inside:
        raise UserError(f"{path}: names no voice activity inside the recording")
    merged: list[tuple[int, int]] = []
    for on, off in sorted(inside):
        if merged and on < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(off, merged[-1][1]))
        else:
            merged.append((on, off))
    lost = len(inside) - len(merged)
    changed = None
    if lost:
        changed = f"{lost} of its {len(inside)} spans of voice activity overlap others: merged"
    elif merged != inside:
        changed = "its spans of voice activity are not in the order of time: sorted"
    return Spans(tuple(merged), changed)


def _span(path: Path, place: int, span: object, rate: int) -> tuple[int, int]:
    ends = span if isinstance(span, list) and len(span) == 2 else [None, None]
    seconds = [_finite(end) for end in ends]
    on, off = seconds
    if on is None or off is None:
        raise UserError(
            f"{path}: voice_activity[{place}] is {_brief(span)}; needed is [on, off], two finite "
            "numbers of seconds"
        )
    if off < on:
        raise UserError(
            f"{path}: voice_activity[{place}] is {_brief(span)}: it ends before it begins"
        )
    return round(on * rate), round(off * rate)


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and abs(number) < _LONGEST_SECONDS else None


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_LONGEST_SECONDS = 1e9
"""Beyond every recording, and its samples still are exact numbers."""
