"""run.json of a run over pairs: what was scored, so that its numbers can be traced and recomputed.

A run scores every pair under every (model, setting of the streams). Its folder holds

    run.json                                     this description
    items/<key>/<task>/part-00012.parquet        every utterance's loss, see records; <key> is
                                                 that of one model and setting, such as ttt-paper
    summary.json legacy.json plots/ report.html  recomputed by `rescore` from the above
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ttt import storage
from ttt.errors import UserError
from ttt.eval.config import PairSummaryConfig, Setting
from ttt.eval.pairs.find import LeftOut
from ttt.eval.run import ModelIdentity
from ttt.records import read_json, write_json

_NAME = "run.json"
_FORMAT = 1


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
class PairRunDescription:
    """Everything that identifies a run's numbers."""

    models: tuple[ModelIdentity, ...]
    settings: tuple[Setting, ...]
    """The first model under the first setting is what the others are compared with."""
    tasks: tuple[PlannedTask, ...]
    mimi: dict[str, str]
    """Name and weights_sha256 of the codec."""
    seed: int
    """Of the subsample."""
    device: str
    dtype: str
    chunk: int
    """Steps per forward pass; part of a result's identity in bfloat16, as the batch is."""
    batch_items: int
    batch_frames: int
    strict: bool
    """Whether legacy.json counts a tie as lost, as the original did."""
    summary: PairSummaryConfig
    provenance: dict[str, Any]
    """Of `records.provenance`: configuration and its digest, versions, commit, machine."""
    warnings: tuple[str, ...] = ()
    """What every output of this run must say, such as that it reproduces a fault on purpose."""

    @property
    def keys(self) -> dict[str, tuple[ModelIdentity, Setting]]:
        """Key of the records -> model and setting; setting by setting, models in their order."""
        return {
            run_key(model.model, setting.name): (model, setting)
            for setting in self.settings
            for model in self.models
        }

    @property
    def headline(self) -> str:
        """What the run is about: the last model (ttt, if there is one) under the first setting."""
        return run_key(self.models[-1].model, self.settings[0].name)

    def described(self, name: str) -> dict[str, Any]:
        """What made the records of one key, see `ttt.eval.differences`."""
        model, setting = self.keys[name]
        return {
            "streams": {"text": setting.text, "other": setting.other, "voice": setting.voice},
            "model": model.described(),
            "codec": self.mimi,
            "device": self.device,
            "dtype": self.dtype,
            "rounding": {
                "chunk": self.chunk,
                "batch_items": self.batch_items,
                "batch_frames": self.batch_frames,
            },
        }

    def write(self, folder: str | Path) -> None:
        """Write FOLDER/run.json."""
        write_json(storage.join(folder, _NAME), {"format": _FORMAT, **asdict(self)})

    @classmethod
    def read(cls, folder: str | Path) -> PairRunDescription:
        """Read FOLDER/run.json. Raises UserError when it is missing or not readable."""
        path = storage.join(folder, _NAME)
        try:
            fields = read_json(path)
            if fields.pop("format") != _FORMAT:
                raise ValueError(f"format is not {_FORMAT}")
            return cls(
                **{
                    **fields,
                    "models": tuple(ModelIdentity(**model) for model in fields["models"]),
                    "settings": tuple(Setting(**setting) for setting in fields["settings"]),
                    "tasks": tuple(_task(task) for task in fields["tasks"]),
                    "summary": PairSummaryConfig(**fields["summary"]),
                    "warnings": tuple(fields["warnings"]),
                }
            )
        except FileNotFoundError as error:
            raise UserError(f"{folder}: not the folder of a run over pairs, no {_NAME}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: not a readable description of a run ({error})") from error


def run_key(model: str, setting: str) -> str:
    """The name of one model's records under one setting."""
    return f"{model}-{setting}"


def items_root(folder: str | Path, key: str) -> Path:
    """The folder of the records of one model and setting."""
    return storage.local_path(folder) / "items" / key


def _task(fields: dict[str, Any]) -> PlannedTask:
    left_out = tuple(LeftOut(**each) for each in fields["left_out"])
    return PlannedTask(**{**fields, "left_out": left_out})
