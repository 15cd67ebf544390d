"""run.json: what an evaluation was, so that its numbers can be traced and recomputed.

A kind of evaluation adds to `Run` what was asked and how it was heard: `ChapterRun`, `PairRun`.
Beside run.json a run's folder holds its records, and summary.json, legacy.json, plots/ (with
plots.json, see `ttt.eval.drawn`) and report.html, which `ttt.eval.rescore` recomputes from them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from ttt import storage
from ttt.config import Config
from ttt.errors import UserError
from ttt.records import read_json, write_json

_NAME = "run.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """One of the models of a run."""

    model: str
    """Its name in this run, such as baseline or ttt."""
    source: str
    """Repository or folder of the base model."""
    fingerprint: str
    """Of the base model's weights."""
    weights_sha256: str | None
    """Of the base model's file; None for a model without one."""
    context: int
    """Frames that attention reaches back."""
    ttt: dict[str, Any] | None = None
    """The TTT layers: folder, layers, configuration, hash; None for the baseline."""
    lora: dict[str, Any] | None = None
    """The LoRA fused into the base model: folder, rank, scaling, hash; None without."""
    controls: dict[str, Any] = field(default_factory=dict)
    """Controls in force, such as updates off."""

    def described(self) -> dict[str, Any]:
        """All of it but the name, see `ttt.eval.differences`."""
        return {key: value for key, value in asdict(self).items() if key != "model"}


@dataclass(frozen=True, kw_only=True)
class Run(ABC):
    """Everything that identifies a run's numbers."""

    TITLE: ClassVar[str]
    """What a folder without run.json is not."""
    ITEMS: ClassVar[str]
    """The field of what the models were asked: of a run that goes on it stays as it is."""
    ROUNDING: ClassVar[tuple[str, ...]]
    """Fields that are part of a result in bfloat16."""

    models: tuple[ModelIdentity, ...]
    mimi: dict[str, str]
    """Name and weights_sha256 of the codec."""
    seed: int
    device: str
    dtype: str
    chunk: int
    """Steps per forward pass."""
    summary: Config
    """How the records are summarised."""
    provenance: dict[str, Any]
    """Of `records.provenance`: configuration and its digest, versions, commit, machine."""
    warnings: tuple[str, ...] = ()
    """What every output of this run must say, such as that it reproduces faults on purpose."""

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """What has records of its own: a model, or a model under one setting of the streams."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """The name that the run is about."""

    @abstractmethod
    def reference(self, name: str) -> str | None:
        """The name that this one is compared with; None for one that is compared with none."""

    @abstractmethod
    def identity(self, name: str) -> ModelIdentity:
        """The model behind the records of a name."""

    @abstractmethod
    def streams_of(self, name: str) -> dict[str, str]:
        """What filled the streams beside the recording."""

    @property
    def rounding(self) -> dict[str, Any]:
        """What moves a result in bfloat16 and nothing else."""
        return {name: getattr(self, name) for name in self.ROUNDING}

    def described(self, name: str) -> dict[str, Any]:
        """What made the records of this name, as a tree, see `ttt.eval.differences`."""
        return {
            "streams": self.streams_of(name),
            "model": self.identity(name).described(),
            "codec": self.mimi,
            "device": self.device,
            "dtype": self.dtype,
            "rounding": self.rounding,
        }

    def write(self, folder: str | Path) -> None:
        """Write FOLDER/run.json."""
        write_json(storage.join(folder, _NAME), {"format": _FORMAT, **asdict(self)})

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read FOLDER/run.json. Raises UserError when it is missing or not readable."""
        path = storage.join(folder, _NAME)
        try:
            fields = read_json(path)
            if fields.pop("format") != _FORMAT:
                raise ValueError(f"format is not {_FORMAT}")
            return _made(cls, fields)
        except FileNotFoundError as error:
            raise UserError(f"{folder}: not the folder of {cls.TITLE}, no {_NAME}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: not a readable description of a run ({error})") from error


def refuse_other_rounding(first: tuple[str | Path, Run], second: tuple[str | Path, Run]) -> None:
    """Raise UserError where two runs (folder, description), one in bfloat16, differ in rounding."""
    (one, ours), (other, theirs) = first, second
    if "bfloat16" not in (ours.dtype, theirs.dtype):
        return
    for name in ("dtype", "device", *ours.ROUNDING):
        before, now = getattr(ours, name), getattr(theirs, name)
        if before != now:
            raise UserError(
                f"{one} and {other} cannot be compared: {name} is {before} in the first and "
                f"{now} in the second, and in bfloat16 it is part of the result; run one "
                f"of them again with the other's {name}"
            )


def _made(kind: Any, value: Any) -> Any:
    """A value of JSON as a field's type wants it: dataclasses and tuples become so again."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _made(hints.get(name), part) for name, part in value.items()})  # pyright: ignore[reportCallIssue]
    if get_origin(kind) is tuple:
        return tuple(_made(get_args(kind)[0], part) for part in value)
    return value
