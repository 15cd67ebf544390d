"""run.json of an evaluation over whole chapters. Its folder holds besides

records/<model>/<chapter id>.parquet   every frame's loss, see chapters.records
failures.jsonl                         {"model", "chapter_id", "reason"} per failed chapter
verification.jsonl                     a group of chapters compared with stepping per line, or
                                       the "error" that kept it away
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ttt import storage
from ttt.eval.config import LongContextConfig
from ttt.eval.run import ModelIdentity, Run

ORIGINAL_WARNING = (
    "preset original is wrong on purpose: like the original evaluation it scores every prediction "
    "on codes two frames late, forces codes that are not delayed, and tells the depformer the text "
    "of the step before; its losses say nothing about a model"
)
"""What every output of an evaluation with preset original must say."""


@dataclass(frozen=True, kw_only=True)
class PlannedChapter:
    """A chapter that the run was to evaluate."""

    chapter_id: str
    speaker: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ChapterRun(Run):
    """What models heard of which chapters; the models' names are those of the records."""

    TITLE: ClassVar[str] = "a chapter evaluation"
    ITEMS: ClassVar[str] = "chapters"
    ROUNDING: ClassVar[tuple[str, ...]] = ("chunk", "batch")

    chapters: tuple[PlannedChapter, ...]
    batch: int
    """Chapters evaluated together."""
    streams: dict[str, str]
    """What the text and the other voice were, and which voice the recording."""
    summary: LongContextConfig

    @property
    def names(self) -> list[str]:
        """The models' names."""
        return [model.model for model in self.models]

    @property
    def headline(self) -> str:
        """The last of the models under the fewest controls."""
        fewest = min(len(model.controls) for model in self.models)
        return [each.model for each in self.models if len(each.controls) == fewest][-1]

    def reference(self, name: str) -> str | None:
        """The model that this one is compared with; None for the first of the run.

        A control is held against the model that it controls, every other model against the first.
        """
        model = self.identity(name)
        alike = [each for each in self.models if (each.ttt is None) == (model.ttt is None)]
        controlled = min(alike, key=lambda each: len(each.controls))
        found = self.models[0] if len(controlled.controls) == len(model.controls) else controlled
        return None if found is model else found.model

    def identity(self, name: str) -> ModelIdentity:
        """The model of this name."""
        return next(each for each in self.models if each.model == name)

    def streams_of(self, name: str) -> dict[str, str]:
        """The same for all models."""
        return self.streams


def records_root(folder: str | Path, model: str) -> Path:
    """The folder of one model's records."""
    return storage.local_path(folder) / "records" / model
