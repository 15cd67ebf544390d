"""run.json of a run over pairs: every pair was scored under every (model, setting of the streams).

Its folder holds besides

    items/<key>/<task>/part-00012.parquet   every utterance's loss, see pairs.records; <key> is that
                                            of one model and setting, such as ttt-paper
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ttt import storage
from ttt.eval.config import PairSummaryConfig, StreamSetting
from ttt.eval.pairs.find import LeftOut
from ttt.eval.run import ModelIdentity, Run


@dataclass(frozen=True, kw_only=True)
class PlannedTask:
    """One task of a run: what was to be scored."""

    task: str
    root: str
    found: int
    """Whole pairs in it."""
    pairs: int
    """How many of them were to be scored: fewer than found where max_pairs is set."""
    pairs_sha256: str
    """`PairSet.sha256`: of their ids."""
    parts: int
    """Part files of each model and setting."""
    max_pairs: int | None
    left_out: tuple[LeftOut, ...]
    """What could have been pairs and was none."""


@dataclass(frozen=True, kw_only=True)
class PairRun(Run):
    """Which models scored which tasks under which streams; `seed` is that of the subsample."""

    TITLE: ClassVar[str] = "a run over pairs"
    ITEMS: ClassVar[str] = "tasks"
    ROUNDING: ClassVar[tuple[str, ...]] = ("chunk", "batch_items", "batch_frames")

    settings: tuple[StreamSetting, ...]
    """The first model under the first setting is what the others are compared with."""
    tasks: tuple[PlannedTask, ...]
    batch_items: int
    batch_frames: int
    strict: bool
    """Whether legacy.json counts a tie as lost, as the original did."""
    summary: PairSummaryConfig

    @property
    def keys(self) -> dict[str, tuple[ModelIdentity, StreamSetting]]:
        """Key of the records -> model and setting; setting by setting, models in their order."""
        return {
            run_key(model.model, setting.name): (model, setting)
            for setting in self.settings
            for model in self.models
        }

    @property
    def names(self) -> list[str]:
        """The keys."""
        return list(self.keys)

    @property
    def headline(self) -> str:
        """The last of the models without a control (ttt, if there is one), first setting."""
        plain = [each.model for each in self.models if not each.controls]
        return run_key(plain[-1], self.settings[0].name)

    def reference(self, name: str) -> str | None:
        """The first key, for every other; for a control what it controls, under its setting."""
        model, setting = self.keys[name]
        if model.controls:
            alike = [e for e in self.models if (e.ttt is None) == (model.ttt is None)]
            return run_key(next(e.model for e in alike if not e.controls), setting.name)
        first = self.names[0]
        return None if name == first else first

    def identity(self, name: str) -> ModelIdentity:
        """The model of a key."""
        return self.keys[name][0]

    def streams_of(self, name: str) -> dict[str, str]:
        """The setting of a key."""
        setting = self.keys[name][1]
        return {"text": setting.text, "other": setting.other, "voice": setting.voice}


def run_key(model: str, setting: str) -> str:
    """The name of one model's records under one setting."""
    return f"{model}-{setting}"


def items_root(folder: str | Path, key: str) -> Path:
    """The folder of the records of one model and setting."""
    return storage.local_path(folder) / "items" / key
