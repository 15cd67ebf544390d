"""A validation over one process or two. As a script: one rank of two."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

from moshi.models.lm import LMModel
from torch import Tensor

from tests.chapter_caches import write_cache
from tests.ttt.moshi.training.runs import in_training
from tests.two_ranks import be_a_rank, run_two_ranks
from ttt.errors import UserError
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.moshi.training import (
    ChapterValidation,
    HeardSpan,
    SpansConfig,
    choose_spans,
    hear_span,
)
from ttt.training.loop import TrainingStopped
from ttt.training.ranks import Communicator, ProcessGroup
from ttt.training.trainee import ValidationResult

WINDOW = 12
LENGTHS = (50, 33, 41, 9, 70, 20, 28)
"""Of the chapters of speakers 0, 1, 2 in turn; one ends within the window."""
SPANS = SpansConfig(span_frames=40, most_spans=7)
HEARING = {"chunk": 7, "text_stream": "own", "other_stream": "masked"}


def validation(folder, lm, spans=None, hear=None, weights="moshi") -> ChapterValidation:
    cache = ChapterCache.open(folder)
    if spans is None:
        spans = choose_spans(cache.chapters, range(len(cache)), SPANS)
    hear = hear or functools.partial(hear_span, **HEARING)
    return ChapterValidation(lm, spans, cache.read, hear, weights=weights)


def measured(folder: Path, group: Communicator, most_spans: int = 7) -> ValidationResult:
    cache = ChapterCache.open(folder)
    config = dataclasses.replace(SPANS, most_spans=most_spans)
    spans = choose_spans(cache.chapters, range(len(cache)), config)
    return validation(folder, in_training(), spans)(group, untrained=True)


def validate_over_two_ranks(folder: Path) -> None:
    """Rank r leaves what it found in folder/rank-r.json: of all spans, of one alone, and why it
    stopped where rank 1 cannot hear."""
    write_cache(folder, LENGTHS)
    run_two_ranks(__file__, folder)


def _validate(rank: int, folder: str) -> None:
    group = ProcessGroup()
    told: list[object] = [
        dataclasses.asdict(measured(Path(folder), group, most_spans)) for most_spans in (7, 1)
    ]

    def deaf(lm: LMModel, codes: Tensor) -> HeardSpan:
        if rank:
            raise UserError("no ears")
        return hear_span(lm, codes, **HEARING)

    try:
        validation(folder, in_training(), hear=deaf)(group, untrained=False)
    except TrainingStopped as error:
        told.append(str(error))
    Path(folder, f"rank-{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    be_a_rank(_validate)
