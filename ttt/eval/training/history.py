"""What the files of a training in Moshi say of it; no model and no chapter is loaded.

A run holds checkpoints, of which the newest says under which plan it is made and how far it is;
metrics.jsonl with steps and validations; and spans.jsonl, with what every validation measured of
every span. All of them may end in the middle: a run that was killed can be read, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttt import checkpoint, storage
from ttt.errors import UserError
from ttt.records import read_json

SPANS_FILE = "spans.jsonl"
"""A line per validation and span: step, chapter_id, speaker, frames, and the rows of the span."""

Line = Mapping[str, Any]


@dataclass(frozen=True)
class TrainingHistory:
    """A training as it stands on disk."""

    plan: Mapping[str, Any]
    """What a resumed run must keep: settings, digests of base model and chapters, counts."""
    state: Mapping[str, Any]
    """Of the newest checkpoint: `ttt.training.state.TrainState`."""
    provenance: Mapping[str, Any]
    steps: Sequence[Line]
    """The recorded steps."""
    validations: Sequence[Line]
    spans: Mapping[int, Sequence[Line]]
    """Step of a validation -> a line per span, in one order."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole plan."""
        return sum(self.plan["steps"].values())

    @property
    def window(self) -> int:
        """Frames that attention reaches back."""
        return self.plan["attention_window"]


def read_history(run: str) -> TrainingHistory:
    """Read a run's folder or URI.

    Raises UserError where there is no training in Moshi that has saved a checkpoint.
    """
    newest = checkpoint.newest_complete(run)
    if newest is None:
        raise UserError(
            f"{run}: no training has saved a checkpoint here; name the run folder of a train_ttt, "
            "which may still be going on"
        )
    stored = checkpoint.read_state(newest)
    if "attention_window" not in stored["plan"]:
        raise UserError(
            f"{run}: this is not a training in Moshi; name the run folder of a train_ttt"
        )
    lines = list(_lines(run, "metrics.jsonl"))
    validations = [line for line in lines if line["kind"] == "validation"]
    spans: dict[int, list[Line]] = {line["step"]: [] for line in validations}
    for line in _lines(run, SPANS_FILE):
        if line["step"] in spans:  # else the run was killed before the validation was told
            spans[line["step"]].append(line)
    return TrainingHistory(
        plan=stored["plan"],
        state=stored["train"],
        provenance=read_json(storage.join(run, "provenance.json")),
        steps=[line for line in lines if line["kind"] == "step"],
        validations=validations,
        spans=spans,
    )


def _lines(run: str, name: str) -> Iterator[Line]:
    """The whole lines of a file; a kill may have cut the last one short."""
    uri = storage.join(run, name)
    if storage.exists(uri):
        whole, _, _ = storage.read_bytes(uri).decode().rpartition("\n")
        yield from map(json.loads, whole.splitlines())
