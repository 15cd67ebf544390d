"""How probable a model finds recordings of a few words: sums and counts per codebook.

Recordings of about the same length are heard together, each beginning with a model that has heard
nothing, through the same `Evaluation` that hears whole chapters. What stands beside a recording in
its batch, and what fills it up to the batch's length, changes its sums by rounding only. The
batches are a function of the lengths alone, so that whoever scores the same recordings gets the
same numbers.

Shapes: Q codebooks (8), T frames.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from moshi.models.lm import LMModel
from torch import Tensor

from ttt.device_errors import raise_if_lost
from ttt.errors import UserError
from ttt.eval.pairs.records import CODEBOOKS
from ttt.moshi.codes import Codes, padded
from ttt.moshi.streaming.evaluate import evaluate_codes
from ttt.moshi.streaming.streams import Streams


@dataclass(frozen=True, eq=False)
class Recording:
    """What is to be scored."""

    codes: Codes
    """[Q, T]"""
    ending_first_frame: int | None = None
    """Sum from this frame on as well; None leaves that out."""


@dataclass(frozen=True)
class Score:
    """What came of a recording."""

    nll_sum: tuple[float, ...]
    """Per codebook [Q], in nats."""
    n_cb: tuple[int, ...]
    """Frames behind each sum [Q]; T."""
    ending_sum: tuple[float, ...] | None
    seconds: float
    """Its share of the batch's computing time."""
    chunk: int
    """Steps per pass; the fewest, where the memory did not suffice for more."""
    batch: int
    """Recordings heard together, this one included."""
    as_planned: bool
    """Whether chunk and batch are those that follow from `Scoring` and the lengths alone."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How recordings are scored."""

    streams: Mapping[str, str]
    """text_stream, other_stream and stream of `ttt.moshi.streaming.streams`."""
    chunk: int
    """Steps per pass."""
    batch_items: int
    """The most recordings heard together."""
    batch_frames: int
    """The most frames heard together, filling included; a longer recording is heard alone."""


def score(
    lm: LMModel,
    recordings: Sequence[Recording],
    how: Scoring,
    silence: Tensor | None = None,
    on_scored: Callable[[int], None] = lambda recordings: None,
) -> list[Score | str]:
    """The score of each recording, or the reason why it has none.

    Args:
        silence: [Q, longest T or more] codes of silence, for the words of `how.streams` that need
            them.
        on_scored: called with the recordings done so far.
    """
    results: dict[int, Score | str] = {}
    lengths = [recording.codes.shape[1] for recording in recordings]
    for batch in length_batches(lengths, how.batch_items, how.batch_frames):
        chosen = [recordings[place] for place in batch]
        results |= zip(batch, _score_batch(lm, chosen, how, silence), strict=True)
        on_scored(len(results))
    return [results[place] for place in range(len(recordings))]


def check_streams(lm: LMModel, streams: Mapping[str, str]) -> None:
    """Raise UserError for streams that the model, on the meta device too, does not have."""
    nothing = torch.zeros(CODEBOOKS, 1, dtype=torch.int16)
    words: dict[str, Any] = dict(streams)
    # Silence may hold any code, and not every model has as many words of text.
    Streams(lm, nothing[None], silence=nothing + lm.card - 1, **words)


def length_batches(lengths: Sequence[int], items: int, frames: int) -> list[list[int]]:
    """Places of the lengths in batches of neighbours by length, of at most `items` places.

    A batch filled up to its longest holds at most `frames` frames, unless one alone is longer.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        # Sorted by length, the one that comes is the longest.
        if batches and len(batches[-1]) < min(items, frames // max(1, lengths[place])):
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def first_difference(one: Codes, other: Codes) -> int:
    """The first frame in which two recordings [Q, T] differ; the shorter's length if in none."""
    frames = min(one.shape[1], other.shape[1])
    differs = (one[:, :frames] != other[:, :frames]).any(axis=0)
    return int(differs.argmax()) if differs.any() else frames


def _score_batch(
    lm: LMModel, batch: Sequence[Recording], how: Scoring, silence: Tensor | None
) -> list[Score | str]:
    try:
        return _listen(lm, batch, how, silence)
    except Exception as error:
        raise_if_lost(error)
        if len(batch) == 1:
            return [_reason(error)]
    # One of them is broken, or they are too many for the memory: each by itself.
    alone = [result for each in batch for result in _score_batch(lm, [each], how, silence)]
    return [r if isinstance(r, str) else replace(r, as_planned=False) for r in alone]


def _listen(
    lm: LMModel, batch: Sequence[Recording], how: Scoring, silence: Tensor | None
) -> list[Score | str]:
    began = time.perf_counter()
    codes, lengths = padded([recording.codes for recording in batch])
    streams: dict[str, Any] = dict(how.streams)
    heard = evaluate_codes(
        lm,
        codes,
        chunk=min(how.chunk, max(lengths) + 1),
        silence=silence,
        lengths=lengths,
        **streams,
    )
    seconds = (time.perf_counter() - began) / sum(lengths)
    nll = heard.nll.double().numpy()
    endings = [recording.ending_first_frame for recording in batch]
    return [
        Score(
            nll_sum=_sums(rows[:, :length]),
            n_cb=tuple(np.isfinite(rows[:, :length]).sum(axis=1).tolist()),
            ending_sum=None if first is None else _sums(rows[:, first:length]),
            seconds=seconds * length,
            chunk=heard.chunks[-1][1],
            batch=len(batch),
            as_planned=len(heard.chunks) == 1,
        )
        for rows, length, first in zip(nll, lengths, endings, strict=True)
    ]


def _sums(nll: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Per codebook [Q] of nll [Q, T], of which `evaluate_codes` left only numbers."""
    return tuple(nll.sum(axis=1).tolist())


def _reason(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    traceback.print_exception(error, file=sys.stderr)
    return f"{type(error).__name__}: {error}"
