"""What every validation measured of every span, so that two trainings can be compared in pairs."""

from __future__ import annotations

from collections.abc import Sequence

from ray_jobs.training.step_lines import StepLines
from ttt.eval.training.history import SPANS_FILE
from ttt.moshi.training.validation.spans import Span
from ttt.training.hooks import Hook
from ttt.training.state import TrainState
from ttt.training.trainee import ValidationResult


class SpansFile(Hook):
    """RUN/spans.jsonl: a line per validation and span, with its rows; the base's at step 0 alone.

    It stands before the trackers: a validation that metrics.jsonl tells of has all its spans here.
    """

    def __init__(self, run: str, spans: Sequence[Span]) -> None:
        self._lines = StepLines(run, SPANS_FILE)
        self._spans = spans

    def on_start(self, state: TrainState) -> None:
        self._lines.go_on(state.step)

    def on_validation(self, state: TrainState, result: ValidationResult) -> None:
        for place, span in enumerate(self._spans):
            self._lines.append(
                {
                    "step": state.step,
                    "chapter_id": span.chapter_id,
                    "speaker": span.speaker,
                    "frames": span.frames,
                    **{row: of_spans[place] for row, of_spans in result.by_item.items()},
                }
            )
        self._lines.upload()
